"""Evidence of the second kind: what models see once the classes are known. Optional, keyed, stored beside the first.

Each kind has a folder of its own in the evidence store; its id holds all that changes its numbers: the id of the
class-free evidence, the class set and its own settings. A new class asks for it again, new thresholds do not.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from models.decide.types import TextBank
from pipelines.flow.listing import Wanted
from pipelines.flow.observing import Known, look_up
from pipelines.flow.run import Run, digest
from pipelines.stages.heat import TEXT_MATCH, HeatStage, HeatStageConfig
from pipelines.stages.observe import PoolConfig, pool_columns
from pipelines.stages.observers import Models
from pipelines.stages.read import ReadConfig

# Raise it whenever the same class-free evidence, class set and settings give other masks.
HEAT_VERSION = 1


@dataclass
class Heat:
    """SAM asked by class heat maps. first: the run; run: the same with this kind's store in the place of its own."""

    first: Run
    run: Run
    known: Known = field(default_factory=Known)
    name: str = "heat"

    @classmethod
    def of(cls, run: Run) -> "Heat":
        parts = [run.observe_id, run.classes.digest, asdict(run.config.heat), asdict(TEXT_MATCH), HEAT_VERSION]
        return cls(run, replace(run, observe_id=digest(parts)))

    def look_up(self, rows: Sequence[Wanted], first: Known) -> None:
        """Compare with what is stored. first: only images that have class-free evidence can be asked about."""
        asked = []
        for row in rows:
            if row.asset in first.evidence:
                shard, key, _ = first.evidence[row.asset]
                hints = HeatStage.hints(shard, key, row.weak)
                asked.append(replace(row, hints=hints, hints_digest=digest([key, row.weak_digest])))
        self.known = look_up(self.run, asked)

    def pool(self, text: TextBank, models: Models, chunk_images: int) -> PoolConfig:
        """Actors that hold SAM."""
        run, config = self.first, self.first.config
        stage = HeatStageConfig(run.store, run.classes, text, config.observe, config.heat)
        images = config.images
        # 0: an image that is tiled when it is observed is asked about as a whole.
        read = ReadConfig(self.run.observe_id, config.observe.picture_px, 0, images.max_pixels, images.read_threads)
        build = partial(HeatStage, stage, models, run.layout.device)
        return PoolConfig(build, read, pool_columns(), chunk_images, threads=1)


def kinds(run: Run) -> list[Heat]:
    """The kinds that the config asks for."""
    return [] if run.config.heat.kind == "none" else [Heat.of(run)]


def join(first: Known, seconds: Sequence[Heat]) -> None:
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
