"""A label snapshot as training images: one pass over the light columns of its files."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines import weak as weak_labels
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.corpus.read import open_parquet
from pipelines.evaluation.runs import PastRun
from pipelines.migrations import Translation
from pipelines.tables.labels import LabelTable
from pipelines.training.config import TrainConfig
from pipelines.training.plan import Images
from pipelines.training.targets import PRESENT, Channels, LabelOptions, LabelSource, look_up, tags

LIGHT = ["asset", "sequence", "removed", "uri", "digest", "mean_confidence", "class_set_digest", "run_id"]
WEAK_FORMS = ("points", "scribbles", "boxes", "maps")


@dataclass
class LabelImages:
    """Labeled images, in the order of their names, and where the labels are. corpus: what was labeled."""

    images: Images
    source: LabelSource
    classes: ClassSet
    snapshot: int
    corpus: str


def open_labels(config: TrainConfig, snapshot: int | None, number: int) -> LabelImages:
    """The newest label of every asset in a snapshot. number: what `Images.source` calls it. Raises UsageError."""
    output = storage.absolute(str(config.labels))
    table = LabelTable(storage.join(output, "labels"))
    version = table.version() if snapshot is None else snapshot
    if version is None:
        raise UsageError(f"--labels: {output} has no published labels; make them with label_corpus.py")
    try:
        files = sorted(table.files(version))
    except Exception as error:  # deltalake's errors are of no common kind
        raise UsageError(f"--snapshot {version}: {output} has no such version of its labels ({error})") from error
    weak = config.data.targets == "weak"
    rows = _newest(_light(files, [*LIGHT, "weak" if weak else "areas"]))
    if not rows.num_rows:
        raise UsageError(f"--labels: snapshot {version} of {output} has no label")
    # Run ids begin with the time, so the last one says what the classes are now.
    past = PastRun.load(output, pc.max(rows["run_id"]).as_py())
    classes = past.classes
    channels = Channels.of(classes)
    tables, which = _tables(output, rows, classes, channels)
    if weak:
        areas, said = _weak_areas(rows["weak"].to_pylist(), classes, channels)
        if not said.any():
            raise UsageError("data.targets is weak, but no label row carries points, scribbles, boxes or maps")
        rows, areas, which = rows.filter(pa.array(said)), areas[said], which[said]
    else:
        areas = np.zeros((rows.num_rows, len(channels)), np.float16)
        for number, channel_of in enumerate(tables):
            own = which == number
            areas[own] = _areas(rows["areas"].combine_chunks().filter(pa.array(own)), channel_of, len(channels))
    data = config.data
    options = LabelOptions(
        data.targets, data.keep, data.min_confidence, data.confidence_weight, data.point_radius, data.box_fill
    )
    place = np.stack([rows[name].to_numpy() for name in ("file", "group", "row")], 1).astype(np.int32)
    _, shard = np.unique(place[:, :2], axis=0, return_inverse=True)
    images = Images(
        rows["asset"].combine_chunks(),
        rows["uri"].combine_chunks(),
        np.full(len(place), number, np.int8),
        np.arange(len(place)),
        shard.reshape(-1).astype(np.int32),
        areas,
        np.nan_to_num(rows["mean_confidence"].to_numpy(), nan=1.0).astype(np.float32),
        rows["digest"].fill_null("").combine_chunks(),
    )
    source = LabelSource(files, place, classes, channels, options, tables, which)
    return LabelImages(images, source, classes, version, past.config.corpus)


def _light(files: list[str], columns: list[str]) -> pa.Table:
    """The columns of all rows, with the file, row group and row that each stands in."""
    parts = []
    for number, file in enumerate(files):
        parquet = open_parquet(file)
        for group in range(parquet.metadata.num_row_groups):
            part = parquet.read_row_group(group, columns=columns)
            count = part.num_rows
            part = part.append_column("file", pa.array(np.full(count, number, np.int32)))
            part = part.append_column("group", pa.array(np.full(count, group, np.int32)))
            parts.append(part.append_column("row", pa.array(np.arange(count, dtype=np.int32))))
        parquet.close()
    return pa.concat_tables(parts) if parts else pa.table({name: [] for name in [*columns, "file", "group", "row"]})


def _newest(rows: pa.Table) -> pa.Table:
    """The newest row of every asset, sorted by asset; without assets whose newest row is a removal."""
    order = pc.sort_indices(rows, sort_keys=[("asset", "ascending"), ("sequence", "ascending")])
    rows = rows.take(order)
    names = rows["asset"].combine_chunks()
    if not len(names):
        return rows
    last = pc.not_equal(names[:-1], names[1:]).to_numpy(zero_copy_only=False)
    keep = np.append(last, True) & ~rows["removed"].to_numpy()
    return rows.filter(pa.array(keep))


def _tables(
    output: str, rows: pa.Table, classes: ClassSet, channels: Channels
) -> tuple[list[npt.NDArray[np.int16]], npt.NDArray[np.int8]]:
    """Channel by class id for every class set that the rows were made with, and int8 [N], which of them is whose.

    Older ones are read through the migrations that the newest records. Raises UsageError where those do not say it.
    """
    digests = rows["class_set_digest"].fill_null("")
    kinds = pc.unique(digests).to_pylist()
    tables, which = [], np.zeros(rows.num_rows, np.int8)
    for number, digest in enumerate(kinds):
        mask = pc.equal(digests, digest)
        which[mask.to_numpy(zero_copy_only=False)] = number
        if len(kinds) == 1:
            return [channels.table], which
        old = PastRun.load(output, pc.max(rows["run_id"].filter(mask)).as_py()).classes
        translation = Translation.of(old, classes)
        if old.digest != classes.digest and (translation.unmatched or not classes.migrations):
            raise UsageError(
                f"the labels in {output} know different classes: label the whole corpus with one class set, by running "
                "label_corpus.py once more, or record as `migrations:` of the class set what became of "
                f"{', '.join(translation.unmatched) or 'its classes'}"
            )
        tables.append(look_up(channels.table, translation.table))
    return tables, which


def _areas(column: Any, table: npt.NDArray[np.int16], count: int) -> npt.NDArray[np.float16]:
    """float16 [N, C]: the share of the image that each channel keeps. table: channel by class id."""
    out = np.zeros((len(column), count), np.float16)
    parents = pc.list_parent_indices(column).to_numpy()
    flat = column.flatten()
    ids = flat.field("class_id").to_numpy()
    channel = look_up(table, ids)
    use = channel >= 0
    # Classes that were merged add up.
    np.add.at(out, (parents[use], channel[use]), flat.field("area").to_numpy()[use])
    return out


def _weak_areas(
    weak: list[str], classes: ClassSet, channels: Channels
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_]]:
    """float16 [N, C], 1 for the classes that were named; bool [N], whether any pixel was spoken of."""
    areas = np.zeros((len(weak), len(channels)), np.float16)
    said = np.zeros(len(weak), bool)
    for row, text in enumerate(weak):
        record, _ = weak_labels.validate(json.loads(text or "{}"), classes)
        said[row] = any(record.get(form) for form in WEAK_FORMS)
        areas[row, tags(record, classes, channels) == PRESENT] = 1
        for form in WEAK_FORMS[:3]:
            for item in record.get(form, ()):
                index = classes.index(item.get("class"))
                if index is not None and index >= 0:
                    areas[row, index + int(channels.background)] = 1
    return areas, said
