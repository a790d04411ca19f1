"""Text: labels_SPLIT.jsonl, a label a line as rows of `class *count` (models/codecs/rrle.py)."""

import json
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from models.codecs.rrle import encode_text
from pipelines.exports.snapshot import VOID
from pipelines.exports.writer import Item, Writer, entries_of


class RrleWriter(Writer):
    """A line holds asset, height, width, classes (name to id, of those in the image) and text, which is lossless."""

    needs_photographs = False

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.names = {class_id: name for class_id, name, _ in entries_of(self.snapshot.classes)}
        self.files: dict[str, IO[bytes]] = {}

    def encode(self, item: Item) -> Any:
        classes = {self.names[i]: i for i in np.unique(item.ids).tolist() if i != VOID}
        height, width = item.size
        text = encode_text(item.ids, self.names, ignore=VOID)
        return {"asset": item.entry.asset, "height": height, "width": width, "classes": classes, "text": text}

    def add(self, item: Item, encoded: Any) -> None:
        # On disk, and not in memory, as the whole corpus may be longer than that.
        if item.split not in self.files:
            self.files[item.split] = tempfile.NamedTemporaryFile(delete=False)  # noqa: SIM115 - closed in `close`
        line = json.dumps(encoded, ensure_ascii=False, separators=(",", ":")) + "\n"
        self.files[item.split].write(line.encode("utf-8", "backslashreplace"))

    def close(self) -> dict[str, Any]:
        for split, file in self.files.items():
            file.close()
            self.target.upload(f"labels_{split}.jsonl", Path(file.name))
        return {}
