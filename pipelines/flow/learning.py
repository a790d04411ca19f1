"""Learn: what the corpus teaches about the looks of its classes, between observing and deciding.

Whatever kind of it the settings give a say (pipelines/learned.py) is looked for in `OUTPUT/learned`, or made and stored
there, and is a part of what labels are decided from.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

from models.decide.types import TextBank
from models.observe_config import key_fields
from pipelines import storage
from pipelines.config import UsageError
from pipelines.flow import learn_bias, learn_head, learn_references
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known, timed
from pipelines.flow.progress import duration, say
from pipelines.flow.run import Run, digest
from pipelines.learned import (
    BIAS,
    COMMIT,
    HEAD,
    REFERENCES,
    VERSION,
    WEIGHTS,
    Artifact,
    Card,
    by_kind,
    cards,
    joined,
    load,
    save,
    taught,
)
from pipelines.nightly.candidates import candidates

# Forms of weak labels that say which classes an image holds.
TELLING = {"tags", "captions"}
# What a summary calls the seconds that each kind took.
STEPS = {HEAD: "learn", REFERENCES: "references", BIAS: "bias"}


def asked(run: Run) -> list[str]:
    """The kinds that the settings give a say, in the order in which they are learned."""
    if not run.config.learn.enabled:
        return []
    return [kind for kind, field in WEIGHTS.items() if getattr(run.config.decide, field)]


def learn(run: Run, rows: Sequence[Wanted], known: Known, embed: Callable[[], TextBank]) -> None:
    """Find or make all that the labels are to be decided with. embed: the class set's texts, with Ray running after it,
    which is called if there is something to make."""
    parts: dict[str, str] = {}
    for kind in asked(run):
        card, images = find(run, kind, rows, known, parts)
        if images:
            text = taught(embed(), run.output, joined(parts))
            make = partial(fit, run, kind, images, known, text, dict(parts))
            card = save(run.output, *timed(run, STEPS[kind], make))
        elif card is not None and run.config.learn.use:
            # A copy: the output has all that its labels came from.
            card = save(run.output, load(storage.absolute(run.config.learn.use), kind, card.digest), card)
        if card is not None:
            parts[kind] = card.digest
        elif kind != HEAD:  # Somebody asked for it; a head is tried for by itself.
            say(f"{STEPS[kind]}: too few images say what they hold; labels are decided without")
    run.learned(joined(parts))


def foresee(run: Run, rows: Sequence[Wanted], known: Known) -> int:
    """What `learn` would find, and of how many images it would make the rest."""
    parts: dict[str, str] = {}
    most = 0
    for kind in asked(run):
        card, images = find(run, kind, rows, known, parts)
        most = max(most, len(images))
        if card is not None or images:
            parts[kind] = card.digest if card else "still to be fitted"
    run.learned(joined(parts))
    return most


def find(
    run: Run, kind: str, rows: Sequence[Wanted], known: Known, parts: Mapping[str, str]
) -> tuple[Card | None, list[Wanted]]:
    """What is good for this run; or, where there is none, the images that it is to be made of: too few of them, and
    there is none. parts: what is known before it."""
    config = run.config.learn
    if config.use:
        return _used(run, kind, config.use), []
    if kind == REFERENCES:
        images = [row for row in rows if row.asset in known.evidence]
    elif run.config.weak is not None and not set(run.config.weak) & TELLING:
        return None, []  # Who asks for labels without tags asks for none that tags have taught.
    else:
        images = _tagged(rows, known, config.images, config.seed)
    fits = [card for card in cards(run.output, kind) if card.identity == identity(run, kind, parts)]
    if fits and not _grown(run, fits[0], images):
        return _not_refused(run, fits), []
    if kind == REFERENCES:
        return None, images if learn_references.enough(run, images, known) else []
    frequent = _most_tagged(images) >= config.min_images
    return None, images if len(images) >= config.min_tagged and frequent else []


def check(run: Run) -> None:
    """Raises UsageError for settings that do not fit each other, before anything is observed."""
    for kind in (REFERENCES, BIAS):
        if getattr(run.config.decide, WEIGHTS[kind]) and not run.config.learn.enabled:
            raise UsageError(
                f"--decide.{WEIGHTS[kind]} needs what is learned from the corpus, which --learn.enabled false leaves "
                f"out; --decide.{WEIGHTS[HEAD]} 0 leaves out the head alone"
            )
    if run.config.decide.bias_removal and run.classes.background is None:
        raise UsageError("--decide.bias_removal needs a class set with a background: this one has none")
    if run.config.learn.use:
        for kind in asked(run):
            _used(run, kind, run.config.learn.use)


def _grown(run: Run, card: Card, images: Sequence[Wanted]) -> bool:
    """Whether there are so many more images now that it is to be made anew."""
    config, count, before = run.config.learn, len(images), card.images
    if card.kind == REFERENCES:
        told = learn_references.told(images, config.min_images)
        if told or card.told:
            count, before = told, card.told
        return bool(count >= (1 + config.growth) * before)
    return bool(before < config.images and count >= min(config.images, (1 + config.growth) * before))


def _not_refused(run: Run, fits: Sequence[Card]) -> Card | None:
    """The newest one, unless a gate refused the labels that it made: then that of the published ones, if it is one of
    these. So nights go on with what there was, until the corpus has grown again."""
    newest = fits[0]
    refused = {one for each in candidates(run.output) for one in by_kind(each.metadata.get(COMMIT, "")).values()}
    if newest.digest not in refused or run.config.publish_anyway is not None:
        return newest
    batches = run.labels.newest(["asset", "head_digest"], batch_rows=4096)
    learned = {word for batch in batches for word in batch["head_digest"].to_pylist() if word}
    used = {digest for word in learned for digest in by_kind(word).values()}
    if newest.digest in used:
        return newest
    return next((card for card in fits if card.digest in used), None)


def fit(
    run: Run,
    kind: str,
    images: Sequence[Wanted],
    known: Known,
    text: TextBank,
    parts: Mapping[str, str],
    root: str = "",
) -> tuple[Artifact, Card]:
    """It, made of these images in tasks beside each other, and its card, whose digest is still to come. text: with what
    was learned before it, the `parts`. root: where an index may be written; default: the output."""
    started = time.monotonic()
    made: Artifact
    if kind == HEAD:
        made, tagged = learn_head.fit(run, images, known, text)
    elif kind == REFERENCES:
        made, tagged = learn_references.fit(run, images, known, text, root or run.output)
    else:
        made, tagged = learn_bias.fit(run, images, known, text)
    names = [entry.name for entry in run.classes.classes]
    background = run.classes.background is not None
    told = identity(run, kind, parts)
    had_tags = learn_references.told(images, run.config.learn.min_images) if kind == REFERENCES else 0
    card = Card("", told, len(images), names, tagged, features_of(run), background, run.run_id, kind, had_tags)
    say(f"{STEPS[kind]}: in {duration(time.monotonic() - started)}")
    return made, card


def identity(run: Run, kind: str, parts: Mapping[str, str]) -> str:
    """Of everything that it depends on, but for the images and for how labels are decided: it stays as it is when a
    threshold moves. parts: what was learned before it."""
    made_from = [run.knowledge.digest, run.classes.digest, run.observe_id]
    config = run.config.learn
    if kind == HEAD:
        return digest([VERSION, *made_from, asdict(learn_head.settings(run)), config.images])
    if kind == REFERENCES:
        told = [learn_references.VERSION, asdict(learn_references.CONFIG), config.reference_images, config.min_images]
        # Who asks for labels without tags asks for none that tags have taught.
        telling = sorted(TELLING if run.config.weak is None else TELLING & set(run.config.weak))
        return digest([kind, *made_from, *told, telling])
    told = [learn_bias.VERSION, asdict(learn_bias.CONFIG), config.images, config.seed, parts.get(HEAD, "")]
    # Only where there are any: statistics that were made without stay valid.
    told += [parts[REFERENCES]] if REFERENCES in parts else []
    return digest([kind, *made_from, *told])


def features_of(run: Run) -> str:
    """Digest of what patch features are made by."""
    told = key_fields(run.config.observe)["clip"]
    return digest({**told, "model": run.model_digests["clip"]})


def _used(run: Run, kind: str, output: str) -> Card:
    """The newest one of another output, if it speaks of the same features and classes."""
    found = cards(storage.absolute(output), kind)
    if not found and kind != HEAD:
        raise UsageError(f"--learn.use: {output} has no {kind}, which decide.{WEIGHTS[kind]} asks for")
    if not found:
        raise UsageError(f"--learn.use: nothing was learned in {output} (see learn.min_tagged)")
    card = found[0]
    if card.features != features_of(run):
        raise UsageError(f"--learn.use: images of {output} were observed by another CLIP, or with other observe.clip")
    if card.classes != [entry.name for entry in run.classes.classes]:
        raise UsageError(f"--learn.use: {output} knows other classes: {', '.join(card.classes)}")
    if card.background != (run.classes.background is not None):
        raise UsageError(f"--learn.use: one of the class sets has a background, that of {output} or this one")
    return replace(card, identity=f"used: {card.identity}")


def _tagged(rows: Sequence[Wanted], known: Known, count: int, seed: int) -> list[Wanted]:
    """At most `count` images of which a tag says what is in them, the same ones in whatever order the corpus comes."""

    def place(row: Wanted) -> bytes:
        return hashlib.sha256(f"{seed} {row.asset}".encode()).digest()

    found = (row for row in rows if row.asset in known.evidence and '"present":true' in row.weak)
    return sorted(found, key=place)[:count]


def _most_tagged(rows: Sequence[Wanted]) -> int:
    """In how many images the most frequent class is tagged."""
    tags = (tag for row in rows for tag in json.loads(row.weak)["tags"])
    return max(Counter(tag["class"] for tag in tags if tag["present"]).values(), default=0)
