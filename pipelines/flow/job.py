"""The job as a sequence of steps: list, observe, decide, publish, report."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import yaml

from models.decide.types import TextBank
from models.evidence import ENCODING_VERSION
from pipelines import execution, storage
from pipelines.classes import ClassSet, ClassSetError
from pipelines.config import LabelConfig, UsageError
from pipelines.corpus.base import CorpusError
from pipelines.corpus.open import open_corpus
from pipelines.flow import deciding, judging, learning, listing, observing, plan, second
from pipelines.flow.finish import Outcome, finish
from pipelines.flow.observing import Known, Observed, timed
from pipelines.flow.past import check_classes
from pipelines.flow.progress import say
from pipelines.flow.publish import Proposal, Publisher
from pipelines.flow.run import Run, decide_digest, digest
from pipelines.flow.stop import stop_on_signals
from pipelines.flow.track import tracked
from pipelines.learned import taught
from pipelines.lock import only_run
from pipelines.references import ModelReferenceError, resolve
from pipelines.stages.observers import Models, pools
from pipelines.stages.read import ReadConfig
from pipelines.tables.evidence import EvidenceStore
from pipelines.text import KNOWLEDGE, NOTHING, Knowledge, knowledge, text_bank
from pipelines.tracking import Tracker

# Images an actor hands to the models at once; reading the next ones goes on meanwhile.
CHUNK_IMAGES = {"cpu": 4, "cuda": 16}


def label_corpus(config: LabelConfig, publisher: Publisher | None = None) -> Outcome:
    """Run the whole job. publisher: what becomes of new labels, of who has the output's lock; default: the lock is
    taken, and they are published at once.

    Raises:
        Held: another run is at work on the output. UsageError: a class set, corpus or model reference that cannot be
        used. RunFailed, Interrupted: see there.
    """
    plan.check(config)
    run, models = set_up(config)
    kinds = second.kinds(run)
    rows = _list(run)  # Before the lock: nothing is written for a corpus that is not there.
    with ExitStack() as stack:
        if publisher is None and not config.dry_run:
            publisher = Publisher(stack.enter_context(only_run(run.output, config.lock, required=False)))
            _check_classes(run)  # Another run may have published with other ones before the lock was ours.
            rows = _list(run) if config.lock.wait else rows
        known = observing.look_up(run, rows, merge=not config.dry_run)
        run.counts = {"wanted": len(rows), "evidence_reused": len(known.evidence), "quarantined": len(known.bad)}
        if publisher is None or config.dry_run:
            return _dry_run(run, kinds, rows, known, models)
        _record_inputs(run)
        tracker = stack.enter_context(tracked(run))
        return _label(run, kinds, rows, known, models, publisher, tracker)


def _list(run: Run) -> Sequence[listing.Wanted]:
    try:
        return timed(run, "list", lambda: listing.list_corpus(run))
    except CorpusError as error:
        raise UsageError(str(error)) from error


def _label(
    run: Run,
    kinds: Sequence[second.Second],
    rows: Sequence[listing.Wanted],
    known: Known,
    models: Models,
    publisher: Publisher,
    tracker: Tracker,
) -> Outcome:
    config = run.config
    storage.remove_unfinished(storage.join(run.output, "evidence"))
    listing.write_manifest(run, rows, {a: e[2] for a, e in known.evidence.items()}, not config.limit)
    observed = Observed()
    if known.todo and not config.from_evidence:
        _start_ray(config)
        observed = timed(run, "observe", lambda: observing.observe(run, known, _pools(run, models)))
        known = observing.look_up(run, rows)
        listing.write_manifest(run, rows, {a: e[2] for a, e in known.evidence.items()}, not config.limit)
        say("observe: " + observing.describe(observed))
    _second(run, kinds, rows, known, models, observed)
    _learn(run, rows, known, models)
    todo = deciding.plan(run, rows, known, publisher.recheck)
    run.counts["labels_reused"] = todo.reused
    decided = timed(run, "decide", lambda: _decide(run, rows, todo, models, kinds))
    run.quarantine.replace(_quarantine_rows(run, rows, known), run.run_id)
    proposal = Proposal(run, len(rows), known, todo, decided)
    published = timed(run, "publish", lambda: publisher(proposal))
    return finish(proposal, observed, published, tracker)


def set_up(config: LabelConfig) -> tuple[Run, Models]:
    """Resolve what the config names, and work out the digests that decide what is there already."""
    try:
        classes = _classes(config)
        clip, sam = resolve(config.observe.clip.model), resolve(config.observe.sam.model)
    except (ClassSetError, CorpusError, ModelReferenceError) as error:
        raise UsageError(str(error)) from error
    models = Models(
        config.observe.clip.model,
        config.observe.sam.model,
        {config.observe.clip.model: clip.digest, config.observe.sam.model: sam.digest},
    )
    layout = _layout(config)
    from models.observe_config import ALGORITHM_VERSION, key_fields

    observe = key_fields(config.observe)
    # The address of a model may change, its content may not.
    observe["clip"]["model"], observe["sam"]["model"] = clip.digest, sam.digest
    # Numbers differ between devices. Deciding alone takes what evidence there is, wherever it was made.
    profiles = sorted(("cpu", "cuda"), key=lambda device: device != layout.device)
    ids = [digest([observe, ALGORITHM_VERSION, ENCODING_VERSION, device]) for device in profiles]
    observe_id = ids[0]
    if config.from_evidence:
        folder = storage.join(storage.absolute(config.output), "evidence")
        there = [one for one in ids if storage.list_files(EvidenceStore(folder, one).url)]
        observe_id = (there or ids)[0]
    answers = storage.join(storage.absolute(config.output), "descriptions.json")
    known = knowledge(config.text, classes, answers, ask=not config.dry_run)
    decided_by = decide_digest(config.decide, clip.digest, known)
    run = Run(config, classes, observe_id, decided_by, {"clip": clip.digest, "sam": sam.digest}, layout, known)
    try:
        run.manifest.version()
    except Exception as error:
        raise UsageError(f"--output {config.output} cannot hold tables: {error}") from error
    _check_classes(run)
    learning.check(run)
    quality = judging.find(run)
    run.quality_digest = "" if quality is None else quality.digest
    return run, models


def _check_classes(run: Run) -> None:
    try:
        check_classes(run.labels, run.output, run.classes)
    except ClassSetError as error:
        raise UsageError(f"--classes: {error}") from error


def _classes(config: LabelConfig) -> ClassSet:
    if config.classes:
        return ClassSet.load(config.classes)
    default = open_corpus(config).default_classes()
    if default is None:
        raise UsageError("--classes is missing: names with commas between, or a YAML file (see --help)")
    return default


def _layout(config: LabelConfig) -> execution.Layout:
    options = config.execution
    share = options.gpu_share
    if options.ray_address or execution.inside_cluster():
        _start_ray(config)
        cpus, gpus = execution.cluster_resources()
    else:
        cpus, gpus = execution.local_resources()
        share = share if gpus else 0.0  # Nobody will bring this machine a GPU.
    try:
        return execution.layout(cpus, gpus, options.device, options.actors, options.rows_per_shard, share)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _start_ray(config: LabelConfig) -> None:
    settings = config.execution
    execution.start_ray(settings.ray_address, settings.object_store_mb, metrics_port=settings.metrics_port)
    # Ray puts handlers of its own in the place of ours, and dies of SIGTERM with an abort.
    stop_on_signals()


def _pools(run: Run, models: Models) -> list[Any]:
    config = run.config
    read = ReadConfig(
        run.observe_id,
        config.observe.picture_px,
        config.observe.tile_above_px,
        config.images.max_pixels,
        config.images.read_threads,
        run.forgotten,
    )
    return pools(config.pools, config.observe, models, run.layout.device, read, _chunk(run), threads=1)


def _chunk(run: Run) -> int:
    return run.config.execution.batch_images or CHUNK_IMAGES[run.layout.device]


def _second(
    run: Run,
    kinds: Sequence[second.Second],
    rows: Sequence[listing.Wanted],
    known: Known,
    models: Models,
    observed: Observed,
) -> None:
    """Bring evidence of the second kind up to date and note it in `known`."""
    for kind in kinds:
        kind.look_up(rows, known)
        left = run.time_left()
        if kind.known.todo and left is not None and left <= 0:
            observed.out_of_budget = True
            say(
                f"{kind.name}: the budget is used up; {len(kind.known.todo):,} images wait for it, and for their labels"
            )
        elif kind.known.todo and not run.config.from_evidence:
            _start_ray(run.config)
            pool = kind.pool(embed_prompts(run.classes, models), models, _chunk(run))
            part = timed(run, kind.name, partial(observing.observe, kind.run, kind.known, [pool], kind.name))
            observed.failures += part.failures
            observed.out_of_budget |= part.out_of_budget
            kind.look_up(rows, known)
            say(f"{kind.name}: {observing.describe(part)}")
    second.join(known, kinds)


def _learn(run: Run, rows: Sequence[listing.Wanted], known: Known, models: Models) -> None:
    """Find or make what the corpus teaches, if there is enough to learn from."""

    @cache
    def embed() -> TextBank:
        _start_ray(run.config)
        return embed_prompts(run.classes, models, run.knowledge)

    learning.learn(run, rows, known, embed)
    if run.head_digest:
        _record_inputs(run)


def _decide(
    run: Run,
    rows: Sequence[listing.Wanted],
    todo: deciding.Plan,
    models: Models,
    kinds: Sequence[second.Second],
) -> deciding.Decided:
    text = None
    if todo.work:
        _start_ray(run.config)
        bank = embed_prompts(run.classes, models, run.knowledge)
        text = taught(bank, run.output, run.head_digest)
    class_ids = {kind.run.observe_id: ids for kind in kinds if (ids := kind.class_ids()) is not None}
    return deciding.decide(run, todo, text, class_ids, judging.judge_of(run, rows) if todo.work else None)


def embed_prompts(classes: ClassSet, models: Models, known: Knowledge = NOTHING) -> TextBank:
    """The class set's prompts in CLIP's text space, embedded in a worker so that the driver holds no model."""
    import ray

    @ray.remote(num_cpus=0.5)
    def embed() -> TextBank:
        return text_bank(models.path(models.clip), classes, known)

    return ray.get(embed.remote())


def _record_inputs(run: Run) -> None:
    """What the run was asked to do, stored before it starts."""
    config = run.config.model_dump(mode="json")
    digests = {
        "observe_id": run.observe_id,
        "decide_digest": run.decide_digest,
        "class_set_digest": run.classes.digest,
        "models": run.model_digests,
        "head": run.head_digest,
        "quality": run.quality_digest,
    }
    files = {"config.yaml": {**config, "digests": digests}, "classes.yaml": run.classes.to_dict()}
    if run.knowledge.digest:
        files[KNOWLEDGE] = run.knowledge.to_dict()
    for name, content in files.items():
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        try:
            storage.write_bytes(storage.join(run.folder, name), text.encode())
        except OSError as error:
            raise UsageError(f"--output {run.config.output} cannot be written: {error}") from error


def _dry_run(
    run: Run, kinds: Sequence[second.Second], rows: Sequence[listing.Wanted], known: Known, models: Models
) -> Outcome:
    for kind in kinds:
        kind.look_up(rows, known)
    asked = [row.asset for kind in kinds for row in kind.known.todo]
    there = len(known.evidence)
    second.join(known, kinds)
    to_learn = learning.foresee(run, rows, known)
    todo = deciding.plan(run, rows, known)
    print(plan.describe(run))
    say(f"probing {min(plan.PROBE_IMAGES, len(known.todo))} images")
    probed = plan.probe(run, known.todo, models) if known.todo else {}
    counts = {
        "images in the corpus": len(rows),
        "evidence is there": there,
        "known to be unreadable": len(known.bad),
        "to observe": len(known.todo),
        **({"to ask about classes": len(asked) + len(kinds) * len(known.todo)} if kinds else {}),
        **({"to learn from": to_learn} if to_learn else {}),
        "labels are current": todo.reused,
        "to decide": len(todo.work) + len(set(asked)) + len(known.todo),
    }
    print(plan.forecast(run, counts, probed))
    return Outcome(0, None)


def _quarantine_rows(run: Run, rows: Sequence[listing.Wanted], known: Known) -> list[dict[str, Any]]:
    """The whole quarantine: what this run found, and what stands of assets that it was not about."""
    names = ("asset", "uri", "size_bytes", "mtag", "stage", "error", "reason")
    about = {row.asset for row in rows} | set(run.manifest.gone())
    others = [row for row in run.quarantine.rows() if row["asset"] not in about]
    return [{name: row[name] for name in names} for row in (*known.bad.values(), *others)]
