"""`review.py import`: what a person corrected, from a tool's file into the output, as partial maps of its own."""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.config import UsageError
from pipelines.exports.snapshot import Ids
from pipelines.flow.progress import say
from pipelines.reviewing.config import ReviewImportConfig
from pipelines.reviewing.corrections import Said, overruled, said
from pipelines.reviewing.review import Drawn, Review, ReviewImage
from pipelines.tables.human import Correction, HumanTable, paint
from pipelines.tables.labels import LabelTable
from pipelines.tables.pictures import read_png

TOLD = 20
"""So many conflicts and problems are told on the terminal; all of them are in the file that is named at the end."""


@dataclass
class Received:
    """What an import found. corrections: by asset, its address and what is new. conflicts, problems: for people."""

    corrections: dict[str, tuple[str, list[Correction]]] = field(default_factory=dict)
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pixels: int = 0
    unchanged: int = 0


def receive(config: ReviewImportConfig) -> dict[str, Any]:
    """Store the corrections; returns what the last line of stdout says. Raises UsageError for what cannot be used."""
    url = storage.absolute(config.review)
    review = Review.read(url)
    output = storage.absolute(config.labels or review.labels)
    people = HumanTable(storage.join(output, "human"))
    source = f"{review.tool}: {config.file.rstrip('/').rpartition('/')[2]}"
    drawn = sorted(_drawn(config, review), key=lambda one: (one.time, one.name))
    if drawn and any(not one.annotator for one in drawn):
        raise UsageError("--annotator: the file does not say who corrected")
    received = _compare(drawn, review, output, people, config, source)
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    added = people.add(received.corrections, run_id)
    listed = storage.join(url, f"imported-{run_id}.json")
    summary = {
        "corrections": added,
        "known_before": sum(len(found) for _, found in received.corrections.values()) - added,
        "images": len(received.corrections),
        "pixels": received.pixels,
        "unchanged_images": received.unchanged,
        "conflicts": len(received.conflicts),
        "problems": len(received.problems),
        "labels": output,
        "listed": listed,
    }
    about = {**summary, "conflicts": received.conflicts, "problems": received.problems}
    storage.write_bytes(listed, json.dumps(about, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace"))
    _tell(received)
    return summary


def _drawn(config: ReviewImportConfig, review: Review) -> Iterator[Drawn]:
    try:
        data, when = storage.read_bytes(config.file), storage.modified(config.file)
    except OSError as error:
        raise UsageError(f"--file {config.file} cannot be read: {error}") from error
    if review.tool == "label-studio":
        from pipelines.reviewing import label_studio

        return label_studio.read(data, review, config.annotator, when)
    if review.tool == "cvat":
        from pipelines.reviewing import cvat

        return cvat.read(data, review, config.annotator, when, config.empty)
    from pipelines.reviewing import coco

    return coco.read(data, review, config.annotator, when, config.empty)


def _compare(
    drawn: list[Drawn], review: Review, output: str, people: HumanTable, config: ReviewImportConfig, source: str
) -> Received:
    """What is new, image by image: against the label that was sent out, and against earlier corrections."""
    received = Received()
    wanted = {review.images[one.name].asset for one in drawn if one.name in review.images}
    sent = _sent(review, wanted)
    now = _digests(output, wanted)
    earlier = people.read(wanted)
    painted: dict[str, Ids] = {}
    for one in drawn:
        image = review.images.get(one.name)
        received.problems += [f"{one.name}: {problem}" for problem in one.problems]
        if image is None:
            received.problems.append(f"{one.name}: this image was not in the review")
            continue
        if image.asset not in sent:
            raise UsageError(f"snapshot {review.snapshot} of {review.labels}, which the review was made of, is gone")
        found = said(one, sent[image.asset], review.classes, config.accept, image.regions)
        received.problems += [f"{one.name}: {label!r} is no class of the labels" for label in found.unknown]
        if not (found.ids >= 0).any():
            received.unchanged += 1
            continue
        correction = _correction(image, one, found, review, source)
        before = [row for row in earlier.get(image.asset, []) if row["digest"] == image.digest]
        if any(row["id"] == correction.to_row()["id"] for row in before):
            before = []  # The same file again: it contradicts nobody.
        elif image.asset not in painted:
            painted[image.asset] = paint(before, review.classes, image.size)[0]
        _conflicts(received, image, one, found, painted.get(image.asset), now.get(image.asset))
        if image.asset in painted:
            painted[image.asset] = np.where(found.ids >= 0, found.ids, painted[image.asset])
        received.pixels += int((found.ids >= 0).sum())
        received.corrections.setdefault(image.asset, (image.uri, []))[1].append(correction)
    return received


def _correction(image: ReviewImage, drawn: Drawn, found: Said, review: Review, source: str) -> Correction:
    names = {entry.id: entry.name for entry in review.classes.classes}
    if review.classes.background is not None:
        names[review.classes.background.id] = "background"
    return Correction(image.digest, drawn.annotator, drawn.time, found.ids, names, source)


def _conflicts(
    received: Received, image: ReviewImage, drawn: Drawn, found: Said, painted: Ids | None, digest: str | None
) -> None:
    about = {"asset": image.asset, "annotator": drawn.annotator, "time": drawn.time.isoformat()}
    if painted is not None and (pixels := overruled(found.ids, painted)):
        what = "an earlier correction says otherwise; the later one counts"
        received.conflicts.append({**about, "pixels": pixels, "what": what})
    if found.contested:
        what = "two objects of this correction overlap; the one drawn later counts"
        received.conflicts.append({**about, "pixels": found.contested, "what": what})
    if digest is not None and digest != image.digest:
        what = "the image has other bytes now than the person saw; the correction is kept and not used"
        received.conflicts.append({**about, "pixels": int((found.ids >= 0).sum()), "what": what})


def _sent(review: Review, assets: set[str]) -> dict[str, Ids]:
    """The labels as they were when the review was made, int32 [H, W] of class ids, by asset."""
    table = LabelTable(storage.join(review.labels, "labels"))
    found = {}
    for batch in table.newest(["asset", "class_map"], version=review.snapshot, batch_rows=16, assets=assets):
        for row in batch.to_pylist():
            found[row["asset"]] = read_png(row["class_map"]).astype(np.int32)
    return found


def _digests(output: str, assets: set[str]) -> dict[str, str]:
    """The digest of the bytes that each asset's newest label is of."""
    table = LabelTable(storage.join(output, "labels"))
    batches = table.newest(["asset", "digest"], batch_rows=4096, assets=assets)
    return {row["asset"]: row["digest"] for batch in batches for row in batch.to_pylist()}


def _tell(received: Received) -> None:
    for found in received.conflicts[:TOLD]:
        say(f"conflict: {found['asset']} ({found['annotator']}), {found['pixels']:,} pixels: {found['what']}")
    for problem in received.problems[:TOLD]:
        say(f"not used: {problem}")
