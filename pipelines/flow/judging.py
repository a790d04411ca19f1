"""What is said of labels beside them: which predictor of their quality is used, and which rules their classes have."""

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.checks import CheckConfig, Rules
from pipelines import storage
from pipelines.config import UsageError
from pipelines.flow.learning import features_of
from pipelines.flow.listing import Wanted
from pipelines.flow.progress import say
from pipelines.flow.run import Run
from pipelines.quality.cards import Card, cards, load, save
from pipelines.stages.judge import Judge

# What complete tags of so many images say of which classes meet is the same for more.
SEEN_IMAGES = 10_000


def find(run: Run) -> Card | None:
    """What predicts the quality of this run's labels, None for nothing. Raises UsageError for a --quality.use that
    cannot be used, and for a model that is gone or was changed."""
    card = _card(run)
    if card is not None:
        # Labels are judged last: what cannot be loaded then had better stop the run now.
        load(_source(run), card.digest)
    return card


def _card(run: Run) -> Card | None:
    use = run.config.quality.use
    if not use:
        return None
    features = features_of(run)
    if use == "auto":
        fits = [card for card in cards(run.output) if (card.class_set, card.features) == (run.classes.digest, features)]
        if not fits:
            say("quality: the output has no model that fits its classes and CLIP (see fit_quality.py): none is used")
        return fits[0] if fits else None
    found = cards(storage.absolute(use))
    if not found:
        raise UsageError(f"--quality.use: {use} has no quality model; fit_quality.py makes one")
    if found[0].class_set != run.classes.digest:
        raise UsageError(f"--quality.use: the newest model of {use} was fitted on labels of another class set")
    if found[0].features != features:
        raise UsageError(f"--quality.use: images of {use} were observed by another CLIP, or with other observe.clip")
    return found[0]


def _source(run: Run) -> str:
    use = run.config.quality.use
    return run.output if use == "auto" else storage.absolute(use)


def judge_of(run: Run, rows: Sequence[Wanted]) -> Judge:
    """What a worker says of its labels. rows: all of the corpus, whose tags say which classes meet."""
    told = run.config.checks
    checks = CheckConfig(told.min_area, told.min_expected, told.max_lift)
    rules = rules_of(run, rows, checks) if told.enabled else None
    if not run.quality_digest:
        return Judge(rules=rules, checks=checks)
    source = _source(run)
    predictor = load(source, run.quality_digest)
    if source != run.output:
        # A copy: the output has all that its labels came from.
        save(run.output, predictor, next(card for card in cards(source) if card.digest == run.quality_digest))
    return Judge(predictor, run.quality_digest, rules, checks)


def rules_of(run: Run, rows: Sequence[Wanted], config: CheckConfig) -> Rules:
    """The class set's parents, and what hardly ever meets by the corpus' complete tags."""
    entries = run.classes.classes
    parents = {entry.name: entry.parent for entry in entries}
    names, ids = [entry.name for entry in entries], [entry.id for entry in entries]
    return Rules.of(names, ids, parents, seen=_seen(run, rows), config=config)


def _seen(run: Run, rows: Sequence[Wanted]) -> npt.NDArray[np.bool_] | None:
    """Which classes are in each of some images, bool [N, C]; of images whose tags speak of every class, or an image
    would say of each class that nobody tagged that it is not there."""
    count = len(run.classes.classes)
    tagged = [row.weak for row in rows if '"tags"' in row.weak]
    found = []
    for weak in tagged[:: -(-len(tagged) // SEEN_IMAGES) or 1]:
        told = json.loads(weak)
        tags = told.get("tags", [])
        if not told.get("tags_complete") and len(tags) < count:
            continue
        seen = np.zeros(count, bool)
        for tag in tags:
            row = run.classes.index(tag["class"])
            if tag["present"] and row is not None and row >= 0:
                seen[row] = True
        found.append(seen)
    return np.array(found) if found else None
