"""`review.py export`: the chosen images with their labels, in the form that a tool reads."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.evaluation.gold import read_names
from pipelines.exports.pictures import Skipped, photograph
from pipelines.exports.regions import specks
from pipelines.exports.snapshot import VOID, Ids, Snapshot, class_ids, open_snapshot
from pipelines.exports.writer import Target, classes_yaml
from pipelines.flow.progress import Progress, say
from pipelines.reviewing.config import ReviewExportConfig
from pipelines.reviewing.rank import COLUMNS, Candidate, candidates, choose, regions_of
from pipelines.reviewing.review import FILE, Review, ReviewImage, ReviewWriter, sent_path
from pipelines.tables.pictures import png, read_png

ROWS = (*COLUMNS, "keep_threshold", "uri")


def send(config: ReviewExportConfig) -> dict[str, Any]:
    """Write the review; returns what the last line of stdout says. Raises UsageError for what cannot be done."""
    snapshot = open_snapshot(config.labels, config.snapshot)
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{config.to}"
    target = Target(storage.absolute(config.output or storage.join(snapshot.output, "reviews", name)))
    if held := storage.tree(target.url):
        raise UsageError(
            f"--output {target.url} holds files already ({held[0]}): give every review a folder of its own"
        )
    review = Review(config.to, snapshot.output, snapshot.version, snapshot.classes, {})
    writer = _writer(config, target, review)
    found = candidates(snapshot, config, _excluded(config.exclude, snapshot))
    if not found:
        raise UsageError("--exclude leaves no image to look at")
    chosen = choose(found, snapshot, config)
    images, skipped, small = _write(writer, chosen, snapshot, config)
    writer.close()
    target.write("classes.yaml", classes_yaml(snapshot.classes))
    # Last, because without it nothing can be imported.
    whole = Review(config.to, snapshot.output, snapshot.version, snapshot.classes, {i.name: i for i in images})
    target.write(FILE, whole.to_json())
    return {
        "review": target.url,
        "tool": config.to,
        "images": len(images),
        "regions": sum(len(image.regions) for image in images),
        "skipped": len(skipped),
        "specks_left_out": small,
        "labels": snapshot.output,
        "snapshot": snapshot.version,
    }


def _writer(config: ReviewExportConfig, target: Target, review: Review) -> ReviewWriter:
    # A tool's imports are only paid where it is used.
    if config.to == "label-studio":
        from pipelines.reviewing.label_studio import LabelStudioWriter

        return LabelStudioWriter(target, review, config.image_url)
    if config.to == "cvat":
        from pipelines.reviewing.cvat import CvatReviewWriter

        return CvatReviewWriter(target, review)
    from pipelines.reviewing.coco import CocoReviewWriter, FiftyOneReviewWriter

    return CocoReviewWriter(target, review) if config.to == "coco" else FiftyOneReviewWriter(target, review)


def _excluded(address: str | None, snapshot: Snapshot) -> set[str]:
    """Assets that are not wanted; names may lack the file suffix."""
    names = set(read_names(address, whole_lines=True))
    return {asset for asset in snapshot.entries if asset in names or (asset.rpartition(".")[0] or asset) in names}


def _write(
    writer: ReviewWriter, chosen: Sequence[Candidate], snapshot: Snapshot, config: ReviewExportConfig
) -> tuple[list[ReviewImage], list[str], int]:
    images, skipped, small = [], [], 0
    progress = Progress("review", len(chosen), config.progress_seconds)
    for asset, image, encoded in _encoded(writer, chosen, snapshot, config):
        if image is None:
            skipped.append(asset)
            say(f"left out: {asset}: {encoded}")
        else:
            writer.add(image, encoded[0])
            images.append(image)
            small += encoded[1]
        progress.add(1, int(image is None))
    progress.close()
    return images, skipped, small


def _encoded(
    writer: ReviewWriter, chosen: Sequence[Candidate], snapshot: Snapshot, config: ReviewExportConfig
) -> Iterator[tuple[str, ReviewImage | None, Any]]:
    """(asset, image, (what the writer made of it, parts that are not shown)), the most wanted first; None and the
    reason where one is left out."""
    value = {one.asset: one.value for one in chosen}

    def work(row: dict[str, Any]) -> tuple[ReviewImage | None, Any]:
        entry = snapshot.entries[row["asset"]]
        size = (row["height"], row["width"])
        try:
            picture = photograph(entry.uri, entry.digest, size, config.max_pixels)
        except Skipped as reason:
            return None, reason
        file = f"{entry.name}.{picture.suffix}"
        writer.target.write(f"{writer.images}/{file}", picture.data)
        regions = tuple(regions_of(row, config.rank))
        about = (file, entry.asset, entry.uri, entry.digest, *size, value[entry.asset], regions)
        image = ReviewImage(*about)
        ids = class_ids(row, "all", 0)
        shown, count = _shown(ids, snapshot.classes, config.min_area_px)
        # What comes back is compared with this: by then the snapshot may be gone. Where nobody can say that no class is
        # there, a part that is not shown is never missed.
        sent = np.where(shown == VOID, ids, shown).astype(read_png(row["class_map"]).dtype)
        writer.target.write(sent_path(image.name), png(sent))
        return image, (writer.encode(image, shown), count)

    with ThreadPoolExecutor(config.threads, thread_name_prefix="review") as threads:
        futures = {row["asset"]: threads.submit(work, row) for row in snapshot.rows(ROWS, assets=set(value))}
        for one in chosen:
            yield one.asset, *futures.pop(one.asset).result()


def _shown(ids: Ids, classes: ClassSet, min_area_px: int) -> tuple[Ids, int]:
    """The label as a person sees it, with nothing in the place of specks: background, or VOID; how many there are."""
    background = classes.background
    small, count = specks(ids, {background.id} if background else (), min_area_px)
    return np.where(small, background.id if background else VOID, ids).astype(np.int32), count
