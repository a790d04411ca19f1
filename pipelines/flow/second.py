"""Evidence of the second kind: what models see that know classes. Optional, keyed, stored beside the first.

Each kind has a folder of its own in the evidence store; its id holds all that changes its numbers. That of SAM's
answers to class heat holds the class set: a new class asks again. A student's holds the student: it knows what it
knows. New thresholds never ask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial

from models.decide.types import TextBank
from models.observe_config import key_fields
from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known, look_up
from pipelines.flow.run import Run, digest
from pipelines.migrations import read_class
from pipelines.references import ModelReferenceError, Resolved, resolve_student
from pipelines.stages.heat import TEXT_MATCH, HeatStage, HeatStageConfig
from pipelines.stages.observe import PoolConfig, pool_columns
from pipelines.stages.observers import Models
from pipelines.stages.read import ReadConfig
from pipelines.stages.student import StudentStage, StudentStageConfig
from pipelines.tracking import choose_store

# Raise one whenever the same inputs give other masks.
HEAT_VERSION = 1
STUDENT_VERSION = 1


@dataclass
class Second:
    """One kind in one run. first: the run; run: the same with this kind's store in the place of its own."""

    first: Run
    run: Run
    known: Known = field(default_factory=Known)
    name = ""

    def look_up(self, rows: Sequence[Wanted], first: Known) -> None:
        """Compare with what is stored. first: only images that have class-free evidence are asked about."""
        self.known = look_up(self.run, [self.asking(row, first) for row in rows if row.asset in first.evidence])

    def asking(self, row: Wanted, first: Known) -> Wanted:
        """The row with what this kind needs to know of it in `hints`."""
        raise NotImplementedError

    def pool(self, text: TextBank, models: Models, chunk_images: int) -> PoolConfig:
        """The actors that hold its model."""
        raise NotImplementedError

    def class_ids(self) -> Mapping[int, int] | None:
        """Stored class id to the class set's; None where they are the same."""
        return None

    def _read(self) -> ReadConfig:
        config = self.first.config
        images, forgotten = config.images, self.run.forgotten
        # 0: an image that is tiled when it is observed is asked about as a whole.
        return ReadConfig(
            self.run.observe_id, config.observe.picture_px, 0, images.max_pixels, images.read_threads, forgotten
        )


@dataclass
class Heat(Second):
    """SAM asked by class heat maps."""

    name = "heat"

    @classmethod
    def of(cls, run: Run) -> "Heat":
        # Of how labels are decided, what is read before there is a map: new defaults of the rest ask nothing anew.
        told = {one.name for one in fields(TEXT_MATCH) if one.metadata["part"] == "scene"}
        match = {name: value for name, value in key_fields(TEXT_MATCH).items() if name in told}
        parts = [run.observe_id, run.classes.digest, asdict(run.config.heat), match, HEAT_VERSION]
        return cls(run, replace(run, observe_id=digest(parts)))

    def asking(self, row: Wanted, first: Known) -> Wanted:
        shard, key, _ = first.evidence[row.asset]
        return replace(row, hints=HeatStage.hints(shard, key, row.weak), hints_digest=digest([key, row.weak_digest]))

    def pool(self, text: TextBank, models: Models, chunk_images: int) -> PoolConfig:
        run, config = self.first, self.first.config
        stage = HeatStageConfig(run.store, run.classes, text, config.observe, config.heat)
        build = partial(HeatStage, stage, models, run.layout.device)
        return PoolConfig(build, self._read(), pool_columns(), chunk_images, threads=1)


@dataclass
class Student(Second):
    """A trained student as one more labeler."""

    found: Resolved = field(kw_only=True)
    registry: str = field(kw_only=True)
    name = "student"

    @classmethod
    def of(cls, run: Run, reference: str) -> "Student":
        try:
            registry = choose_store(run.config.tracking.uri, run.config.output)[0]
            found = resolve_student(reference, tracking_uri=registry)
        except ModelReferenceError as error:
            raise UsageError(f"--labelers: {error}") from error
        # As of the first evidence: deciding alone takes what there is, wherever it was made.
        devices = sorted(("cpu", "cuda"), key=lambda device: device != run.layout.device)
        picture_px = run.config.observe.picture_px
        ids = [digest(["student", found.digest, picture_px, device, STUDENT_VERSION]) for device in devices]
        stores = [replace(run, observe_id=one) for one in ids]
        there = [one for one in stores if run.config.from_evidence and storage.list_files(one.store.url)]
        kind = cls(run, (there or stores)[0], found=found, registry=registry)
        if not kind.class_ids():
            raise UsageError(f"--labelers: the student {reference} knows none of the classes {run.classes.names[:8]}")
        return kind

    def asking(self, row: Wanted, first: Known) -> Wanted:
        return replace(row, hints="", hints_digest="")

    def pool(self, text: TextBank, models: Models, chunk_images: int) -> PoolConfig:
        config = StudentStageConfig(self.found.reference, self.found.digest, self.registry)
        build = partial(StudentStage, config, self.first.layout.device)
        return PoolConfig(build, self._read(), pool_columns(), chunk_images, threads=1)

    def class_ids(self) -> Mapping[int, int]:
        from models.students.card import load_card

        card = load_card(self.found.path)
        named = zip(card.ids, card.names, strict=True)
        return _same_names(list(named)[1 if card.background else 0 :], self.first.classes)


def _same_names(known: Sequence[tuple[int, str]], classes: ClassSet) -> dict[int, int]:
    own = {entry.id for entry in classes.classes}
    found = {number: read_class(classes, number, [name]) for number, name in known}
    return {number: id for number, id in found.items() if id is not None and id in own}


def kinds(run: Run) -> list[Second]:
    """The kinds that the config asks for."""
    found: list[Second] = [] if run.config.heat.kind == "none" else [Heat.of(run)]
    return found + [Student.of(run, reference) for reference in run.config.students]


def join(first: Known, seconds: Sequence[Second]) -> None:
    """Note in `first` what there is of the second kind; images that lack any of it cannot be decided yet."""
    for kind in seconds:
        for asset in list(first.evidence):
            found = kind.known.evidence.get(asset)
            if found is not None:
                first.second.setdefault(asset, []).append((kind.run.observe_id, *found[:2]))
                continue
            del first.evidence[asset]
            if asset in kind.known.bad:
                first.bad[asset] = kind.known.bad[asset]
