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
from pipelines.forgetting.memory import Forgotten
from pipelines.lock import only_run
from pipelines.reviewing.config import ReviewImportConfig
from pipelines.reviewing.corrections import Said, overruled, said
from pipelines.reviewing.review import Drawn, Review, ReviewImage, sent_path
from pipelines.tables.human import Correction, HumanTable, paint
from pipelines.tables.labels import LabelTable
from pipelines.tables.pictures import read_png

TOLD = 20
"""So many conflicts and problems are told on the terminal; all of them are in the file that is named at the end."""


@dataclass
class Received:
    """What an import found. corrections: by asset, its address and what is new, as values of the human table.
    conflicts, problems: for people."""

    corrections: dict[str, tuple[str, list[dict[str, Any]]]] = field(default_factory=dict)
    conflicts: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pixels: int = 0
    unchanged: int = 0


def receive(config: ReviewImportConfig) -> dict[str, Any]:
    """Store the corrections; returns what the last line of stdout says. Raises UsageError for what cannot be used, and
    Held while another run is at work on the output."""
    url = storage.absolute(config.review)
    review = Review.read(url)
    output = storage.absolute(config.labels or review.labels)
    if LabelTable(storage.join(output, "labels")).version() is None:
        raise UsageError(f"--labels: {output} has no published labels; say where they are now")
    drawn = sorted(_drawn(config, review), key=lambda one: (one.time, one.name))
    if drawn and any(not one.annotator for one in drawn):
        raise UsageError("--annotator: the file does not say who corrected")
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    # Beside another import one of both would be lost, and beside forgetting what is being forgotten would come back.
    with only_run(output, config.lock) as confirm:
        people = HumanTable(storage.join(output, "human"))
        received = _compare(drawn, review, url, output, people, config)
        confirm()
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
    drawn: list[Drawn], review: Review, url: str, output: str, people: HumanTable, config: ReviewImportConfig
) -> Received:
    """What is new, against the label that was sent out and against earlier corrections: image by image, because a large
    one takes hundreds of megabytes."""
    received = Received()
    source = f"{review.tool}: {config.file.rstrip('/').rpartition('/')[2]}"
    by_name: dict[str, list[Drawn]] = {}
    for one in drawn:
        by_name.setdefault(one.name, []).append(one)
    wanted = _wanted(by_name, review, Forgotten.load(output), received)
    assets = {image.asset for image in wanted}
    now = _digests(output, assets)
    earlier = people.read(assets)
    for image in wanted:
        before = [row for row in earlier.get(image.asset, []) if row["digest"] == image.digest]
        received.problems += [f"{image.asset}: {one.refused}" for one in by_name[image.name] if one.refused]
        work = [one for one in by_name[image.name] if not one.refused]
        sent = _sent(url, image, received) if work else None
        if sent is not None:
            _image(received, image, work, sent, before, now.get(image.asset), review, config.accept, source)
    return received


def _wanted(
    by_name: dict[str, list[Drawn]], review: Review, forgotten: Forgotten, received: Received
) -> list[ReviewImage]:
    """The images that are in the review and were not forgotten since."""
    found, gone, strange = [], 0, []
    for name in by_name:
        image = review.images.get(name)
        if image is None:
            strange.append(name)
        elif forgotten.holds("asset", image.asset) or forgotten.holds("digest", image.digest):
            gone += 1
        else:
            found.append(image)
    # Without their names: what is listed stays in the review's folder, where forgetting finds an image by its asset.
    if strange:
        received.problems.append(f"{len(strange):,} images were not in the review")
        say(f"not in the review: {', '.join(strange[:TOLD])}{', ...' if len(strange) > TOLD else ''}")
    if gone:
        received.problems.append(f"{gone} images were forgotten since they were sent out; nothing of them is taken in")
    return found


def _image(
    received: Received,
    image: ReviewImage,
    work: list[Drawn],
    sent: Ids,
    before: list[dict[str, Any]],
    digest: str | None,
    review: Review,
    accept: str,
    source: str,
) -> None:
    """The work on one image, in order. sent: the label that people saw. before: earlier corrections of these bytes.
    digest: of the image's bytes now."""
    known = {row["id"] for row in before}
    painted: Ids | None = None
    for one in work:
        found = said(one, sent, review.classes, accept, image.regions)
        received.problems += [f"{image.asset}: {problem}" for problem in found.problems]
        if not (found.ids >= 0).any():
            received.unchanged += 1
            continue
        row = _correction(image, one, found, review, source).to_row()
        # The same file again contradicts nobody.
        if row["id"] not in known and painted is None:
            painted = paint(before, review.classes, image.size)[0]
        _conflicts(received, image, one, found, painted, digest)
        if painted is not None:
            painted = np.where(found.ids >= 0, found.ids, painted)
        received.pixels += int((found.ids >= 0).sum())
        received.corrections.setdefault(image.asset, (image.uri, []))[1].append(row)


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


def _sent(url: str, image: ReviewImage, received: Received) -> Ids | None:
    """The label as it was when the review was made, int32 [H, W] of class ids; None, with a problem, without it."""
    try:
        return read_png(storage.read_bytes(storage.join(url, sent_path(image.name)))).astype(np.int32)
    except FileNotFoundError:
        received.problems.append(f"{image.asset}: the label that was sent out ({sent_path(image.name)}) is gone")
        return None


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
