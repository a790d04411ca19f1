"""What a person sees of a run: the report page and the MLflow run."""

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml
from PIL import Image

from models.decide.types import PROVENANCE
from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.flow.observing import Known
from pipelines.flow.publish import Proposal, Published
from pipelines.flow.run import Run
from pipelines.flow.track import track
from pipelines.report.data import QuarantineRow, ReportClass, ReportItem
from pipelines.report.page import Notes, ReportBuilder
from pipelines.report.select import Selection
from pipelines.stages.decide import read_png
from pipelines.tracking import Tracker

PICTURES = ("class_map", "confidence", "provenance")
NUMBERS = ("asset", "keep_threshold", "coverage", "mean_confidence", "areas", "violations", "accepted")
PREDICTED = ("predicted_miou", "predicted_low", "predicted_high")
# So many of the commonest messages about broken rules are told; the labels' rows have all.
TOLD_RULES = 10


def build(
    run: Run,
    known: Known,
    details: dict[str, Any],
    notes: Notes = (),
    candidate: Sequence[str] = (),
    beside: Sequence[str] = (),
) -> tuple[str, ReportBuilder]:
    """The report as HTML, and the builder, which has the overlays. Reads the pictures of the shown images only. What
    all labels say of themselves is added to `details`.

    beside: names of pages in the same folder, to be linked."""
    builder = ReportBuilder(
        report_classes(run.classes),
        images=run.config.report.images,
        background_id=run.classes.background.id if run.classes.background else None,
        sources=PROVENANCE,
    )
    shown: Selection[str] = Selection(run.config.report.images)
    broken, images_breaking, accepted = Counter[str](), 0, Counter[bool]()
    for batch in run.labels.newest(NUMBERS, batch_rows=4096, extra=candidate):
        for row in batch.to_pylist():
            areas = {area["class_id"]: area["area"] for area in row["areas"]}
            kept = {area["class_id"]: area["kept"] for area in row["areas"]}
            builder.totals.count(areas, kept, row["coverage"], row["mean_confidence"])
            broken.update(row["violations"] or ())
            images_breaking += bool(row["violations"])
            accepted.update([row["accepted"]] if row["accepted"] is not None else [])
            if row["asset"] in known.evidence and shown.wants(row["asset"], row["mean_confidence"]):
                shown.add(row["asset"], row["mean_confidence"], row["asset"])
    if images_breaking:
        details["rule_breaking_images"], details["broken_rules"] = images_breaking, dict(broken.most_common(TOLD_RULES))
    if accepted:
        details["accepted_images"], details["not_accepted_images"] = accepted[True], accepted[False]
    chosen = {asset for asset, _ in shown.chosen()}
    guides = _guides(run, known, chosen)
    columns = [*NUMBERS, *PICTURES, *PREDICTED, "weak", "evidence_key"]
    for batch in run.labels.newest(columns, batch_rows=16, assets=chosen, extra=candidate):
        for row in batch.to_pylist():
            if row["evidence_key"] in guides:
                builder.add(_item(row, guides[row["evidence_key"]]))
    text = yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    rows = (QuarantineRow(r["asset"], r["stage"], f"{r['error']}: {r['reason']}") for r in known.bad.values())
    told = [
        (name, value) for name, value in details.items() if name not in ("report", "failures") and value not in ({}, [])
    ]
    numbers = {name: _flat(value) for name, value in told}
    return builder.render(f"Labels of {run.config.corpus}", numbers, text, rows, None, notes, beside), builder


def _flat(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value[:20])) + (f" and {len(value) - 20} more" if len(value) > 20 else "")
    return ", ".join(f"{name} {number}" for name, number in value.items()) if isinstance(value, dict) else value


def report_classes(classes: ClassSet) -> list[ReportClass]:
    found = [ReportClass(entry.id, entry.name, entry.color) for entry in classes.classes]
    if classes.background:
        found.insert(0, ReportClass(classes.background.id, "background", classes.background.color))
    return found


def _guides(run: Run, known: Known, assets: set[str]) -> dict[str, Any]:
    wanted = sorted({known.evidence[asset][:2] for asset in assets})
    rows = run.store.read(wanted, ["guide"])
    return {row["evidence_key"]: np.asarray(Image.open(io.BytesIO(row["guide"])).convert("RGB")) for row in rows}


def _item(row: dict[str, Any], guide: Any) -> ReportItem:
    return ReportItem(
        asset=row["asset"],
        guide=guide,
        **{name: read_png(row[name]) for name in PICTURES},
        keep_threshold=row["keep_threshold"],
        coverage=row["coverage"],
        mean_confidence=row["mean_confidence"],
        areas={area["class_id"]: area["area"] for area in row["areas"]},
        weak=row["weak"] or "",
        predicted=None if row["predicted_miou"] is None else tuple(row[name] for name in PREDICTED),
        accepted=bool(row["accepted"]),
        violations=tuple(row["violations"] or ()),
    )


def present(proposal: Proposal, published: Published, details: dict[str, Any], tracker: Tracker) -> str | None:
    """Write the report, if there is anything to show, and tell MLflow. Returns the address of the report."""
    run = proposal.run
    address, overlays, pages = None, None, dict(published.pages)
    if published.report:
        candidate = [storage.join(run.labels.url, name) for name in published.candidate]
        beside = [name for name in pages if name.endswith(".html")]
        pages["report.html"], builder = build(run, proposal.known, details, published.notes, candidate, beside)
        address, overlays = storage.join(run.folder, "report.html"), builder.overlays
    for name, content in pages.items():
        storage.write_bytes(storage.join(run.folder, name), content.encode())
    track(tracker, run, details, pages, overlays, published.tags)
    return address
