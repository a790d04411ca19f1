"""Evidence of the second kind: what models see that know classes. Optional, keyed, stored beside the first.

Each kind has a folder of its own in the evidence store; its id holds all that changes its numbers. That of SAM's
answers to class heat holds the class set: a new class asks again. A student's or localiser's holds that network:
it knows what it knows. New thresholds never ask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Self

from models.decide.types import TextBank
from models.observe_config import key_fields
from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known, look_up
from pipelines.flow.run import Run, digest
from pipelines.migrations import read_class
from pipelines.references import ModelReferenceError, Resolved, resolve_localiser, resolve_student
from pipelines.stages.heat import TEXT_MATCH, HeatStage, HeatStageConfig
from pipelines.stages.localiser import LocaliserStage
from pipelines.stages.observe import PoolConfig, pool_columns
from pipelines.stages.observers import Models
from pipelines.stages.read import ReadConfig
from pipelines.stages.student import NetworkStage, NetworkStageConfig, StudentStage
from pipelines.tracking import choose_store

# Raise one whenever the same inputs give other masks.
HEAT_VERSION = 1
VERSIONS = {"student": 1, "localiser": 1}


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
class Network(Second):
    """A trained network as one more labeler; it knows what it knows, whatever is asked for."""

    found: Resolved = field(kw_only=True)
    registry: str = field(kw_only=True)

    @classmethod
    def of(cls, run: Run, reference: str) -> Self:
        try:
            registry = choose_store(run.config.tracking.uri, run.config.output)[0]
            found = cls.resolve(reference, registry)
        except ModelReferenceError as error:
            raise UsageError(f"--labelers: {error}") from error
        # As of the first evidence: deciding alone takes what there is, wherever it was made.
        devices = sorted(("cpu", "cuda"), key=lambda device: device != run.layout.device)
        picture_px = run.config.observe.picture_px
        ids = [digest([cls.name, found.digest, picture_px, device, VERSIONS[cls.name]]) for device in devices]
        stores = [replace(run, observe_id=one) for one in ids]
        there = [one for one in stores if run.config.from_evidence and storage.list_files(one.store.url)]
        kind = cls(run, (there or stores)[0], found=found, registry=registry)
        if not kind.class_ids():
            known = run.classes.names[:8]
            raise UsageError(f"--labelers: the {cls.name} {reference} knows none of the classes {known}")
        return kind

    @classmethod
    def resolve(cls, reference: str, registry: str) -> Resolved:
        """Raises ModelReferenceError."""
        raise NotImplementedError

    def asking(self, row: Wanted, first: Known) -> Wanted:
        return replace(row, hints="", hints_digest="")

    def pool(self, text: TextBank, models: Models, chunk_images: int) -> PoolConfig:
        config = NetworkStageConfig(self.found.reference, self.found.digest, self.registry)
        build = partial(self.stage, config, self.first.layout.device)
        return PoolConfig(build, self._read(), pool_columns(), chunk_images, threads=1)

    def stage(self, config: NetworkStageConfig, device: str) -> NetworkStage:
        """Made in an actor."""
        raise NotImplementedError

    def class_ids(self) -> Mapping[int, int]:
        return _same_names(self.knows(), self.first.classes)

    def knows(self) -> list[tuple[int, str]]:
        """Ids and names of its classes without a background."""
        raise NotImplementedError


@dataclass
class Student(Network):
    """A student of train_student.py: probabilities."""

    name = "student"

    @classmethod
    def resolve(cls, reference: str, registry: str) -> Resolved:
        return resolve_student(reference, tracking_uri=registry)

    stage = staticmethod(StudentStage)

    def knows(self) -> list[tuple[int, str]]:
        from models.students.card import load_card

        card = load_card(self.found.path)
        return list(zip(card.ids, card.names, strict=True))[1 if card.background else 0 :]


@dataclass
class Localiser(Network):
    """A localiser of train_localiser.py: class activation maps."""

    name = "localiser"

    @classmethod
    def resolve(cls, reference: str, registry: str) -> Resolved:
        return resolve_localiser(reference, tracking_uri=registry)

    stage = staticmethod(LocaliserStage)

    def knows(self) -> list[tuple[int, str]]:
        from models.localize.card import load_card

        try:
            card = load_card(self.found.path)
        except ValueError as error:
            raise UsageError(f"--labelers: {error}") from error
        return list(zip(card.ids, card.classes, strict=True))


def _same_names(known: Sequence[tuple[int, str]], classes: ClassSet) -> dict[int, int]:
    own = {entry.id for entry in classes.classes}
    found = {number: read_class(classes, number, [name]) for number, name in known}
    return {number: id for number, id in found.items() if id is not None and id in own}


def kinds(run: Run) -> list[Second]:
    """The kinds that the config asks for."""
    found: list[Second] = [] if run.config.heat.kind == "none" else [Heat.of(run)]
    found += [Student.of(run, reference) for reference in run.config.students]
    return found + [Localiser.of(run, reference) for reference in run.config.localisers]


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
