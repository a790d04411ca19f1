"""Heads on disk: `OUTPUT/learned/<digest>.safetensors`, and a card beside it that says what it was fitted on."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from models.corpus.head import Head
from pipelines import storage
from pipelines.config import UsageError

FOLDER = "learned"
HEAD = "head"
"""Where a commit, and a candidate for one, says which head its labels were decided with."""
VERSION = 1
"""Raise it when the same images give another head; heads of before are then not used any more."""


@dataclass(frozen=True)
class Card:
    """digest: sha256 of the weights. identity: of everything but the images that they depend on. images: how many they
    were fitted on, of whom `tagged` had each class. classes: names, in row order. features: digest of the CLIP and of
    how it looked at them. background: whether the class set has one. run_id: of the run that fitted it."""

    digest: str
    identity: str
    images: int
    classes: list[str]
    tagged: list[int]
    features: str
    background: bool
    run_id: str


def cards(output: str) -> list[Card]:
    """Of all heads of an output, the newest first."""
    urls = [url for url in storage.list_files(storage.join(output, FOLDER)) if url.endswith(".json")]
    found = [Card(**json.loads(storage.read_bytes(url))) for url in urls]
    return sorted(found, key=lambda card: card.run_id, reverse=True)


def save_head(output: str, head: Head, card: Card) -> Card:
    """Write both files, the card last; returns the card with the digest in it."""
    from safetensors.numpy import save

    arrays: dict[str, Any] = asdict(head)
    background = arrays.pop("background")
    weights = save(arrays, {"background": json.dumps(background)})
    card = replace(card, digest=hashlib.sha256(weights).hexdigest())
    storage.write_bytes(_address(output, card.digest, "safetensors"), weights)
    storage.write_bytes(_address(output, card.digest, "json"), json.dumps(asdict(card), indent=2).encode())
    return card


def load_head(output: str, digest: str) -> Head:
    """Raises FileNotFoundError where it is gone, ValueError where its bytes are others."""
    from safetensors.numpy import load

    data = storage.read_bytes(_address(output, digest, "safetensors"))
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{_address(output, digest, 'safetensors')} was changed after it was fitted")
    length = int.from_bytes(data[:8], "little")
    background = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["background"])
    return Head(**load(data), background=background)


def head_of(output: str, digest: str) -> Head | None:
    """The head that a run of this output decided with; digest "": none. Raises UsageError where it is not there."""
    try:
        return load_head(output, digest) if digest else None
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(
            f"the head that labels of {output} were decided with is gone or was changed ({error}); "
            "--learn.enabled false decides from text alone"
        ) from error


def _address(output: str, digest: str, kind: str) -> str:
    return storage.join(output, FOLDER, f"{digest[:32]}.{kind}")
