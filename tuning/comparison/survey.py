"""One look at every row of a label snapshot, without its class maps: what it is worth without gold."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from models.metrics import coverage_by_level
from pipelines.report.data import Totals
from pipelines.stages.decide import read_png
from tuning.comparison.classes import Common
from tuning.comparison.sides import Snapshot

COLUMNS = (
    "asset", "run_id", "height", "width", "areas", "confidence", "coverage", "mean_confidence", "disagreement",
)  # fmt: skip


@dataclass
class Survey:
    """Sums over all images of a snapshot. levels: pixels of the confidence grids by level 0..255, int64 [256].
    totals: areas by common class index. unchanged: (class, pixels) of the images that were asked for."""

    totals: Totals = field(default_factory=Totals)
    levels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    mean_confidence: float = 0.0
    disagreement: float = 0.0
    unchanged: dict[int, int] = field(default_factory=dict)

    def coverage(self) -> npt.NDArray[np.float64]:
        """Share of the pixels of at least each level of confidence, float64 [256]."""
        return coverage_by_level(self.levels)

    def numbers(self) -> dict[str, float]:
        images = max(self.totals.images, 1)
        return {
            "images": self.totals.images,
            "kept share": self.totals.coverage / images,
            "mean confidence": self.mean_confidence / images,
            "disagreement of sources": self.disagreement / images,
            "classes in use": len(self.totals.area),
        }

    def area(self) -> dict[int, float]:
        """Mean share of an image, by common class index."""
        return {index: area / max(self.totals.images, 1) for index, area in self.totals.area.items()}


def survey(snapshot: Snapshot, common: Common, unchanged: Collection[str]) -> Survey:
    """Stream the snapshot's rows. unchanged: assets whose pixels are counted by class from their areas."""
    found = Survey()
    tables = {run_id: common.table(snapshot.runs[run_id].classes) for run_id in snapshot.run_ids}
    for batch in snapshot.table.newest(COLUMNS, version=snapshot.version, batch_rows=256):
        for row in batch.to_pylist():
            table = tables[row["run_id"]]
            areas: dict[int, float] = {}
            kept: dict[int, float] = {}
            for entry in row["areas"] or ():
                index = int(table[min(entry["class_id"], len(table) - 1)])
                areas[index], kept[index] = entry["area"], entry["kept"]
            found.totals.count(areas, kept, row["coverage"] or 0.0, row["mean_confidence"] or 0.0)
            found.mean_confidence += row["mean_confidence"] or 0.0
            found.disagreement += row["disagreement"] or 0.0
            found.levels += np.bincount(read_png(row["confidence"]).reshape(-1), minlength=256)
            if row["asset"] in unchanged:
                for index, share in areas.items():
                    pixels = round(share * row["height"] * row["width"])
                    found.unchanged[index] = found.unchanged.get(index, 0) + pixels
    return found


def label_keys(snapshot: Snapshot) -> Mapping[str, str | None]:
    """What each asset's label came from; equal keys are equal labels."""
    found: dict[str, str | None] = {}
    for batch in snapshot.table.newest(("asset", "label_key"), version=snapshot.version, batch_rows=4096):
        found.update(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    return found
