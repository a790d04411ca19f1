"""Labeled images for the tests of the report: crops of real photographs with a class map made from them."""

from collections.abc import Iterator

import numpy as np
import skimage.data

from pipelines.report.data import QuarantineRow, ReportClass, ReportData, ReportItem

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&{{ 7*7 }}"
CLASSES = [
    ReportClass(0, "background", (0, 0, 0)),
    ReportClass(1, "cat", (64, 0, 0)),
    ReportClass(7, EVIL, (0, 128, 255)),
]


def item(asset: str, number: int, size: tuple[int, int] = (120, 161)) -> ReportItem:
    """One image; its least sure pixels are on the left, `number` moves the mean confidence and the class."""
    height, width = size
    photo = skimage.data.chelsea()[10 : 10 + height, 40 : 40 + width]
    class_map = np.zeros(size, np.uint16)
    class_map[height // 4 : -height // 4, width // 4 : -width // 4] = 7 if number % 3 == 0 else 1
    grid = (-(-height // 4), -(-width // 4))
    ramp = np.linspace(0.1, 0.7, grid[1]) + 0.3 * ((number * 37) % 101) / 101
    confidence = np.broadcast_to((ramp * 255).astype(np.uint8), grid).copy()
    provenance = np.where(np.arange(grid[1]) < grid[1] // 2, 1, 2).astype(np.uint8)
    return ReportItem(
        asset=asset,
        guide=photo,
        class_map=class_map,
        confidence=confidence,
        provenance=np.broadcast_to(provenance, grid).copy(),
        keep_threshold=0.5,
        coverage=float((confidence >= round(0.5 * 255)).mean()),
        mean_confidence=float(confidence.mean() / 255),
        areas={int(i): float((class_map == i).mean()) for i in np.unique(class_map)},
        weak='{"tags":[{"class":"cat","present":true},{"class":"dog","present":false}],"boxes":[{"box":[1,2,3,4]}]}',
    )


def items(count: int) -> Iterator[ReportItem]:
    for number in range(count):
        yield item(f"photos/{number:04d}.jpg" if number else f"photos/{EVIL}.jpg", number)


def report_data(count: int, images: int = 60) -> ReportData:
    return ReportData(
        title=f"Labels of {EVIL}",
        summary={"images": count, "images_per_second": 4.25, "seconds": {"list": 0.5}, "reasons": {}, "snapshot": None},
        config=f"corpus: {EVIL}\nlimit: null\n",
        classes=CLASSES,
        items=items(count),
        quarantine=[QuarantineRow(f"{EVIL}.jpg", "observe", "truncated JPEG"), QuarantineRow("b.jpg", "observe", EVIL)],
        images=images,
    )
