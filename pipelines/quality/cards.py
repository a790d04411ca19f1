"""What predicts quality, on disk: `OUTPUT/learned/quality/<digest>.npz`, and a card beside it that says what it is."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from models.quality.predictor import Predictor
from pipelines import storage
from pipelines.config import UsageError
from pipelines.learned import FOLDER as LEARNED

FOLDER = f"{LEARNED}/quality"


@dataclass(frozen=True)
class Card:
    """digest: sha256 of the predictor. created: time (ISO, UTC). class_set: digest. features: of the CLIP and of how it
    looked at the images. images, labelers: whose labels it was fitted on. bad_below, risk: the promise behind
    `threshold`, None where nothing can be accepted under it. margin: half width of the interval, which covers
    `coverage` of new labels. gold, gold_digest: the masks. numbers: what it was worth on images and labelers that it
    never saw."""

    digest: str
    created: str
    class_set: str
    features: str
    images: int
    labelers: list[str]
    bad_below: float
    risk: float
    threshold: float | None
    coverage: float
    margin: float
    labels: str
    snapshot: int
    gold: str
    gold_digest: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


def cards(output: str) -> list[Card]:
    """Of all models of an output, the newest first."""
    urls = [url for url in storage.list_files(storage.join(output, FOLDER)) if url.endswith(".json")]
    found = [Card(**json.loads(storage.read_bytes(url))) for url in urls]
    return sorted(found, key=lambda card: (card.created, card.digest), reverse=True)


def save(output: str, predictor: Predictor, card: Card) -> Card:
    """Write both files, the card last; returns the card with the digest in it."""
    content = predictor.to_bytes()
    card = replace(card, digest=hashlib.sha256(content).hexdigest())
    storage.write_bytes(address(output, card.digest, "npz"), content)
    storage.write_bytes(address(output, card.digest, "json"), json.dumps(asdict(card), indent=2).encode())
    return card


def load(output: str, digest: str) -> Predictor:
    """Raises UsageError where it is gone, was changed, or is of another version of the program."""
    url = address(output, digest, "npz")
    try:
        content = storage.read_bytes(url)
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{url} was changed after it was fitted")
        return Predictor.from_bytes(content)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(
            f"--quality.use: what predicts quality cannot be used ({error}); fit it again with fit_quality.py, or "
            "leave quality.use empty"
        ) from error


def address(output: str, digest: str, kind: str) -> str:
    return storage.join(output, FOLDER, f"{digest[:32]}.{kind}")
