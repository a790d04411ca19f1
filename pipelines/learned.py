"""What a corpus taught, on disk: `OUTPUT/learned/<digest>.safetensors`, and a card beside it that says what of.

There are three kinds, each of which can be there alone. What a label was decided with is one word: the digest of a head
alone; of more, the parts with their kinds, such as `<digest>+bias:<digest>`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from models.corpus import bias
from models.corpus.bias import BiasStats
from models.corpus.cosegment import References
from models.corpus.head import Head
from models.decide.config import DecideConfig
from models.decide.types import TextBank
from pipelines import storage
from pipelines.config import UsageError

FOLDER = "learned"
HEAD, REFERENCES, BIAS = "head", "references", "bias"
COMMIT = HEAD
"""Where a commit, and a candidate for one, says what its labels were decided with."""
WEIGHTS = {HEAD: "head_weight", REFERENCES: "reference_weight", BIAS: "bias_removal"}
"""Kind, in the order in which they are learned, to the field of DecideConfig that gives it a say."""
VERSION = 1
"""Raise it when the same images give another head; heads of before are then not used any more."""

Artifact = Head | References | BiasStats


RUN_SECOND = len("20261123-101500")
"""Run ids begin with the second that they began in; of two in one second the later knows more images."""


@dataclass(frozen=True)
class Card:
    """digest: sha256 of the file. identity: of everything but the images that it depends on. images: how many it was
    made of, of whom `tagged` had each class, as far as is known. classes: names, in row order. features: digest of the
    CLIP and of how it looked at them. background: whether the class set has one. run_id: of the run that made it. told:
    of references, how many images had tags; 0: too few, their texts retrieved them."""

    digest: str
    identity: str
    images: int
    classes: list[str]
    tagged: list[int]
    features: str
    background: bool
    run_id: str
    kind: str = HEAD
    told: int = 0


def by_kind(learned: str) -> dict[str, str]:
    """Kind to digest, of what a label was decided with."""
    pieces = (part.rpartition(":") for part in learned.split("+") if part)
    return {kind or HEAD: digest for kind, _, digest in pieces}


def joined(parts: Mapping[str, str]) -> str:
    """The way back. A head alone is its digest, as it was before there was more."""
    told = [parts[kind] if kind == HEAD else f"{kind}:{parts[kind]}" for kind in WEIGHTS if kind in parts]
    return "+".join(told)


def with_a_say(learned: str, decide: DecideConfig) -> str:
    """Without the parts that these settings pay no attention to."""
    return joined({kind: one for kind, one in by_kind(learned).items() if getattr(decide, WEIGHTS[kind])})


def cards(output: str, kind: str = HEAD) -> list[Card]:
    """Of all that an output has of a kind, the newest first."""
    urls = [url for url in storage.list_files(storage.join(output, FOLDER)) if url.endswith(".json")]
    found = [Card(**json.loads(storage.read_bytes(url))) for url in urls]
    return sorted(
        (card for card in found if card.kind == kind),
        key=lambda card: (card.run_id[:RUN_SECOND], card.images),
        reverse=True,
    )


def save(output: str, made: Artifact, card: Card) -> Card:
    """Write both files, the card last; returns the card with the digest in it."""
    from safetensors.numpy import save as to_bytes

    arrays, scalars = _arrays(made)
    data = to_bytes(arrays, {name: json.dumps(value) for name, value in scalars.items()})
    card = replace(card, digest=hashlib.sha256(data).hexdigest())
    storage.write_bytes(_address(output, card.digest, "safetensors"), data)
    storage.write_bytes(_address(output, card.digest, "json"), json.dumps(asdict(card), indent=2).encode())
    return card


def load(output: str, kind: str, digest: str) -> Artifact:
    """Raises FileNotFoundError where it is gone, ValueError where its bytes are others."""
    from safetensors.numpy import load as from_bytes

    data = storage.read_bytes(_address(output, digest, "safetensors"))
    if hashlib.sha256(data).hexdigest() != digest:
        raise ValueError(f"{_address(output, digest, 'safetensors')} was changed after it was fitted")
    length = int.from_bytes(data[:8], "little")
    told = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    scalars = {name: json.loads(text) for name, text in told.items()}
    arrays: dict[str, Any] = from_bytes(data)
    if kind == BIAS:
        return bias.from_arrays(arrays)
    return References(**arrays, **scalars) if kind == REFERENCES else Head(**arrays, **scalars)


def taught(text: TextBank, output: str, learned: str) -> TextBank:
    """The text bank with what the labels of an output were decided with; "": with nothing. Raises UsageError where that
    is not there."""
    try:
        return with_artifacts(text, {kind: load(output, kind, one) for kind, one in by_kind(learned).items()})
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(
            f"what labels of {output} were decided with is gone or was changed ({error}); "
            "--learn.enabled false decides from text alone"
        ) from error


def with_artifacts(text: TextBank, made: Mapping[str, Artifact]) -> TextBank:
    """The text bank with what was learned, by kind, and nothing else of it."""
    parts: dict[str, Any] = {kind: made.get(kind) for kind in WEIGHTS}
    return replace(text, **parts)


def by_digest(text: TextBank, learned: str) -> dict[str, Artifact]:
    """What a text bank was taught, under the digests that the word for it is made of."""
    return {digest: getattr(text, kind) for kind, digest in by_kind(learned).items()}


def _arrays(made: Artifact) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, the rest) of what a file holds."""
    if isinstance(made, BiasStats):
        return bias.to_arrays(made), {}
    values: dict[str, Any] = asdict(made)
    scalars: dict[str, Any] = {name: values.pop(name) for name in ("background", "centre") if name in values}
    return values, scalars


def _address(output: str, digest: str, kind: str) -> str:
    return storage.join(output, FOLDER, f"{digest[:32]}.{kind}")
