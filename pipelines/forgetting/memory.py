"""What was forgotten, remembered so that it stays out, in a form that names nothing.

`OUTPUT/forgotten.json` holds a random key and HMAC-SHA256 marks of assets, addresses and digests. Nobody can read a
name out of it; who has the file and guesses a name can find out whether the guess was right.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from pipelines import storage

FILE = "forgotten.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Forgotten:
    """The marks of one output; without any by default. key: 32 bytes."""

    key: bytes = b""
    marks: frozenset[str] = frozenset()

    @classmethod
    def load(cls, output: str) -> "Forgotten":
        """What an output remembers; nothing where nothing was forgotten."""
        address = storage.join(output, FILE)
        if not storage.exists(address):
            return cls()
        found = json.loads(storage.read_bytes(address))
        return cls(bytes.fromhex(found["key"]), frozenset(found["marks"]))

    def holds(self, kind: str, value: str) -> bool:
        """Whether this was forgotten. kind: asset, uri or digest."""
        return bool(self.marks) and self.mark(kind, value) in self.marks

    def mark(self, kind: str, value: str) -> str:
        return hmac.new(self.key, f"{kind}\0{value}".encode(), hashlib.sha256).hexdigest()

    def remember(self, output: str, values: Iterable[tuple[str, str]]) -> "Forgotten":
        """Add (kind, value) pairs and write the file, whole or not at all."""
        keyed = Forgotten(self.key or secrets.token_bytes(32), self.marks)
        new = Forgotten(keyed.key, keyed.marks | {keyed.mark(*pair) for pair in values})
        # Sorted, so that the order in which images were forgotten is not told either.
        content = {"schema_version": SCHEMA_VERSION, "key": new.key.hex(), "marks": sorted(new.marks)}
        storage.write_bytes(storage.join(output, FILE), json.dumps(content, indent=1).encode())
        return new
