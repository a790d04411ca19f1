"""What a person sees of a night: the page of changes, tables for the report, and numbers for MLflow."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from PIL import Image

from models.metrics import expand_quarter
from models.palette import default_color
from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.flow.publish import Proposal
from pipelines.nightly.config import NightlyConfig
from pipelines.nightly.diff import Diff
from pipelines.nightly.flow import Classes
from pipelines.nightly.gate import Numbers
from pipelines.report.changes import ChangesPage
from pipelines.report.page import Notes
from pipelines.report.worst import JudgedItem
from pipelines.stages.decide import read_png

LISTED = 100  # images in the tables of the report and of MLflow; all are in changes.parquet
NAMED = 10  # images of each cause, of those that came or went
TABLE = "changes.parquet"
PAGE, JSON_TABLE = "changes.html", "changes.json"

Photo = npt.NDArray[np.uint8]


def pages(
    config: NightlyConfig, proposal: Proposal, changes: Diff, numbers: Numbers, wrong: Sequence[str]
) -> tuple[dict[str, str], Notes]:
    """Files for the run's folder and MLflow by name, and the tables of the report."""
    notes = [*gate_notes(numbers, wrong), *diff_notes(changes)]
    table: dict[str, str] = {JSON_TABLE: json.dumps(ranked(changes))}
    if not changes.sides.old.rows:
        return table, notes
    shown = changes.images.filter(pc.greater(changes.images["changed_pixels"], 0)).slice(0, config.changes)
    run, known = proposal.run, proposal.known
    assets = shown["asset"].to_pylist()
    wanted = {asset: known.evidence[asset][:2] for asset in assets if asset in known.evidence}
    stored = {row["evidence_key"]: row["guide"] for row in run.store.read(sorted(wanted.values()), ["guide"])}
    photos = {asset: stored[key] for asset, (_, key) in wanted.items() if key in stored}
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return {PAGE: changes_page(changes, run.classes, photos, shown, notes, text), **table}, notes


def changes_page(
    changes: Diff, classes: ClassSet, photos: Mapping[str, bytes], shown: pa.Table, notes: Notes, config: str
) -> str:
    """The page of the most changed images. photos: an encoded picture by asset. shown: rows of `changes.images`."""
    index = Classes(changes.sides)
    known = classes.background is not None and "background" in index.names
    colors = {entry.name: entry.color for entry in classes.classes}
    named = [(n, colors.get(n, default_color(i))) for i, n in zip(index.ids, index.names, strict=True)]
    background = index.names.index("background") if known else None
    page = ChangesPage(named, background, shown.num_rows)
    columns = [*Classes.COLUMNS, "confidence"]
    for old, new in changes.sides.pairs(columns, set(shown["asset"].to_pylist()) & photos.keys()):
        page.add(_item(old, new, index, photos[new["asset"]]))
    rows = shown.select(["asset", "cause", "inputs"]).to_pylist()
    causes = {row["asset"]: ", ".join([row["cause"], *(row["inputs"] or [])]) for row in rows}
    had = {name: max(1, int(n)) for name, n in zip(index.names, changes.flow.counts[:-1, :-1].sum(1), strict=True)}
    per_class = {n: (iou, gained / had[n], lost / had[n]) for n, iou, gained, lost in changes.classes()}
    both = sum(total.images for total in changes.causes.values()) - changes.images["changed_share"].null_count
    tiles = {"from": changes.sides.old.snapshot, **{k: f"{v:.4%}" for k, v in _churn(changes).items()}}
    images = both + len(changes.sides.same)
    return page.render("Changes of labels", tiles, per_class, images, config, notes=notes, causes=causes)


def _item(old: Mapping[str, Any], new: Mapping[str, Any], index: Classes, photo: bytes) -> JudgedItem:
    before, after = index.pair(old, new)
    if before.shape != after.shape:
        before = np.full(after.shape, -1)  # another picture; what was where cannot be said
    same = float((before == after).mean())
    return JudgedItem(
        new["asset"],
        np.asarray(Image.open(io.BytesIO(photo)).convert("RGB")),
        before,
        after,
        expand_quarter(read_png(new["confidence"]), *after.shape).astype(np.float32) / 255,
        same,
        {},
    )


def _churn(changes: Diff) -> dict[str, float]:
    return {"pixels changed": changes.churn, "without a cause": changes.churn_without_cause}


def diff_notes(changes: Diff) -> list[tuple[str, Sequence[Sequence[object]]]]:
    """Tables of the changes: by cause, by class, between classes, by image."""
    old = changes.sides.old.snapshot
    since = f"since snapshot {old}" if old is not None else "of the first snapshot"
    causes = [
        [name, total.images, total.changed, f"{total.changed_pixels / max(1, total.pixels):.2%}"]
        for name, total in sorted(changes.causes.items())
    ]
    tables: list[tuple[str, Sequence[Sequence[object]]]] = [
        (f"Changes {since}", [["cause", "images", "with changed pixels", "share of their pixels"], *causes])
    ]
    if changes.pixels and changes.churn:
        classes = [[n, "–" if iou is None else f"{iou:.4f}", g, lost] for n, iou, g, lost in changes.classes()]
        tables.append(("Classes, old against new", [["class", "IoU", "pixels gained", "pixels lost"], *classes]))
        tables.append(("Flow between classes", [["from", "to", "pixels"], *changes.moves()]))
        told = ranked(changes)
        tables.append((f"Images by change (all in {TABLE})", [told["columns"], *told["data"]]))
    return tables + came_and_went(changes)


def came_and_went(changes: Diff) -> list[tuple[str, Sequence[Sequence[object]]]]:
    """A few of the images that one side alone has, a row each so that one can be forgotten, and how many there are."""
    alone = changes.images.filter(pc.is_null(changes.images["changed_share"]))
    causes = sorted(pc.unique(alone["cause"]).to_pylist())
    if not causes or not changes.sides.old.rows:
        return []
    of = {name: alone.filter(pc.equal(alone["cause"], name))["asset"] for name in causes}
    counts = ", ".join(f"{name} {len(assets):,}" for name, assets in of.items())
    rows = [[name, asset] for name, assets in of.items() for asset in assets.slice(0, NAMED).to_pylist()]
    return [(f"Images that came or went: {counts} (all in {TABLE})", [["cause", "image"], *rows])]


def ranked(changes: Diff) -> dict[str, list[Any]]:
    """The most changed images as {"columns", "data"}, the layout of tables in MLflow."""
    columns = ["asset", "cause", "inputs", "changed_share", "changed_pixels", "moves"]
    rows = changes.images.slice(0, LISTED).select(columns).to_pylist()
    data = []
    for row in rows:
        moves = ", ".join(f"{m['old']} → {m['new']} {m['pixels']:,}" for m in row["moves"] or ())
        share = None if row["changed_share"] is None else round(row["changed_share"], 5)
        inputs = ", ".join(row["inputs"] or ())
        data.append([row["asset"], row["cause"], inputs, share, row["changed_pixels"], moves])
    return {"columns": columns, "data": data}


def gate_notes(numbers: Numbers, wrong: Sequence[str]) -> list[tuple[str, Sequence[Sequence[object]]]]:
    rows: list[Sequence[object]] = [["number", "before", "now"]]
    if numbers.old is not None and numbers.new is not None:
        rows.append([f"mIoU on {numbers.new.images} gold images", _four(numbers.old.metric), _four(numbers.new.metric)])
        rows += [[f"IoU of {n}", _four(v), _four(numbers.new.class_iou[n])] for n, v in numbers.old.class_iou.items()]
    rows.append(["coverage", _four(numbers.coverage_before), _four(numbers.coverage)])
    rows.append(["quarantine rate", "", _four(numbers.quarantine_rate)])
    rows.append(["churn", "", _four(numbers.churn)])
    rows.append([f"churn without a cause ({numbers.rechecked} rechecked)", "", _four(numbers.churn_without_cause)])
    tables: list[tuple[str, Sequence[Sequence[object]]]] = [("Gate", rows)]
    if wrong:
        tables.insert(0, ("Refused by the gate", [["reason"], *([sentence] for sentence in wrong)]))
    return tables


def _four(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def flat(numbers: Numbers) -> dict[str, Any]:
    """The gate's numbers, for MLflow."""
    values = asdict(numbers)
    values["withdrawn"] = len(numbers.withdrawn)
    for side in ("old", "new"):
        quality = values.pop(side)
        if quality is not None:
            values[f"{side}_miou"], values[f"{side}_iou"] = quality["metric"], dict(quality["class_iou"])
            values["gold_images"] = quality["images"]
    return values


def numbers_of(changes: Diff) -> dict[str, Any]:
    """The diff's numbers, for summary.json and MLflow."""
    classes = changes.classes()
    return {
        "from": changes.sides.old.snapshot,
        "churn": round(changes.churn, 6),
        "churn_without_cause": round(changes.churn_without_cause, 6),
        "causes": {name: asdict(total) for name, total in sorted(changes.causes.items())},
        "iou": {name: round(iou, 6) for name, iou, _, _ in classes if iou is not None},
        "gained": {name: gained for name, _, gained, _ in classes},
        "lost": {name: lost for name, _, _, lost in classes},
    }


def write_table(folder: str, changes: Diff) -> None:
    """All images that changed, ranked, as Parquet."""
    storage.write_parquet(storage.join(folder, TABLE), changes.images)
