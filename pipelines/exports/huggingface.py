"""Hugging Face: Parquet files that `datasets` reads with pictures decoded, and a dataset card."""

import json
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import yaml

from pipelines import storage
from pipelines.exports.snapshot import VOID
from pipelines.exports.writer import Item, Writer, entries_of
from pipelines.tables.pictures import png

SPLITS = {"train": "train", "val": "validation"}
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NUMBERS = {
    "height": "int32", "width": "int32", "keep_threshold": "float32", "coverage": "float32",
    "mean_confidence": "float32",
}  # fmt: skip
TEXTS = ("asset", "digest")
PICTURES = ("image", "label", "confidence")
FEATURES = {
    **{name: {"_type": "Image"} for name in PICTURES},
    **{name: {"dtype": "string", "_type": "Value"} for name in TEXTS},
    **{name: {"dtype": dtype, "_type": "Value"} for name, dtype in NUMBERS.items()},
    "classes": {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "List"},
}
ARROW = {"int32": pa.int32(), "float32": pa.float32()}
SCHEMA = pa.schema(
    [
        *((name, PICTURE) for name in PICTURES),
        *((name, pa.string()) for name in TEXTS),
        *((name, ARROW[dtype]) for name, dtype in NUMBERS.items()),
        ("classes", pa.list_(pa.int32())),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": FEATURES}})},
)
SIZES = ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"))
# Pictures are large: a reader of one row reads this many.
ROWS_PER_GROUP = 16
# A file is in memory three times while it is made: its rows, the table, the Parquet bytes.
BYTES_PER_FILE = 256_000_000


class HuggingFaceWriter(Writer):
    """data/SPLIT-NNNNN.parquet, README.md, id2label.json."""

    columns = ("confidence", "coverage", "mean_confidence")
    folders = ("data",)
    lists = tuple(f"data/{split}-[0-9][0-9][0-9][0-9][0-9].parquet" for split in SPLITS.values())

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        # A pixel without a label needs a value that no class has.
        taken = {i for i, *_ in entries_of(self.snapshot.classes)}
        self.void = next(value for value in (255, 65535) if value not in taken)
        self.dtype = np.uint8 if max(*taken, self.void) < 256 else np.uint16
        self.rows: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self.held = dict.fromkeys(SPLITS, 0)
        self.files = dict.fromkeys(SPLITS, 0)
        self.counts = dict.fromkeys(SPLITS, 0)

    def encode(self, item: Item) -> Any:
        assert item.photograph is not None
        name = item.entry.name
        values = np.where(item.ids == VOID, self.void, item.ids).astype(self.dtype)
        return {
            "image": {"bytes": item.photograph.data, "path": f"{name}.{item.photograph.suffix}"},
            "label": {"bytes": png(values), "path": f"{name}.png"},
            "confidence": {"bytes": item.row["confidence"], "path": f"{name}.png"},
            "asset": item.entry.asset,
            "digest": item.entry.digest,
            **{key: item.row[key] for key in ("keep_threshold", "coverage", "mean_confidence")},
            "height": item.size[0],
            "width": item.size[1],
            "classes": np.unique(item.ids[item.ids != VOID]).tolist(),
        }

    def add(self, item: Item, encoded: Any) -> None:
        rows = self.rows[item.split]
        rows.append(encoded)
        self.counts[item.split] += 1
        self.held[item.split] += sum(len(encoded[name]["bytes"]) for name in PICTURES)
        if len(rows) >= self.config.rows_per_file or self.held[item.split] >= BYTES_PER_FILE:
            self._write(item.split)

    def _write(self, split: str) -> None:
        path = f"data/{SPLITS[split]}-{self.files[split]:05d}.parquet"
        table = pa.Table.from_pylist(self.rows[split], schema=SCHEMA)
        storage.write_parquet(storage.join(self.target.url, path), table, row_group_size=ROWS_PER_GROUP)
        self.target.written.add(path)
        self.files[split] += 1
        self.rows[split], self.held[split] = [], 0

    def close(self) -> dict[str, Any]:
        for split, rows in self.rows.items():
            if rows:
                self._write(split)
        names = {str(i): name for i, name, _ in entries_of(self.snapshot.classes)}
        self.target.write("id2label.json", json.dumps(names, ensure_ascii=False, indent=1).encode())
        self.target.write("README.md", self._card().encode())
        return {SPLITS[split]: count for split, count in self.counts.items() if count}

    def _card(self) -> str:
        total = sum(self.counts.values())
        splits = [SPLITS[split] for split, count in self.counts.items() if count]
        files = [{"split": name, "path": f"data/{name}-*.parquet"} for name in splits]
        head = {
            "license": self.config.license,
            "task_categories": ["image-segmentation"],
            "pretty_name": self.title,
            "size_categories": [next((name for most, name in SIZES if total < most), "n>10M")],
            "tags": ["semantic-segmentation", "weak-labels"],
            "configs": [{"config_name": "default", "data_files": files}],
        }
        loader = jinja2.Environment(
            loader=jinja2.PackageLoader("pipelines.exports", ""), undefined=jinja2.StrictUndefined, autoescape=False
        )
        loader.filters["cell"] = cell
        return loader.get_template("card.md.j2").render(
            head=yaml.safe_dump(head, sort_keys=False, allow_unicode=True),
            title=self.title,
            snapshot=self.snapshot,
            keep=self.config.keep,
            counts={SPLITS[split]: count for split, count in self.counts.items() if count},
            entries=entries_of(self.snapshot.classes),
            void=self.void,
        )

    @property
    def title(self) -> str:
        return self.config.title or f"Labels of {self.snapshot.run.config.corpus.rstrip('/').rpartition('/')[2]}"


def cell(text: str) -> str:
    """Text as a cell of a Markdown table that shows it as it is."""
    for character in "\\|*_`<>[]":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
