"""A localiser on disk: `card.json` says what it is, `model.safetensors` holds all weights, the backbone's too."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.device import pick_device
from models.localize.localiser import Localiser, LocaliserConfig
from models.localize.pooling import Pooling

CARD_FILE, WEIGHTS_FILE = "card.json", "model.safetensors"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class LocaliserCard:
    """config: of the network. classes: names of its C classes, in channel order. extra: whatever else should be known
    of it (images, seed, figures), JSON-able."""

    config: LocaliserConfig
    classes: tuple[str, ...]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> tuple[int, ...]:
        """Of its classes, as `extra` has them; their places, from 1, where it has none."""
        return tuple(self.extra.get("ids", range(1, len(self.classes) + 1)))

    def __post_init__(self) -> None:
        if len(self.classes) != self.config.classes:
            raise ValueError(f"{len(self.classes)} names for {self.config.classes} classes")


def save_localiser(folder: str | Path, localiser: Localiser, card: LocaliserCard) -> None:
    """Write both files; each is replaced whole, the card last. ValueError: the card is of another network."""
    if card.config != localiser.config:
        raise ValueError(f"the card says {card.config}, the localiser is {localiser.config}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format_version": FORMAT_VERSION, **asdict(card)}, indent=2, ensure_ascii=False) + "\n"
    part = folder / f"{WEIGHTS_FILE}.{os.getpid()}.tmp"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in localiser.state_dict().items()}, part)
    part.replace(folder / WEIGHTS_FILE)
    part = folder / f"{CARD_FILE}.{os.getpid()}.tmp"
    part.write_text(text, encoding="utf-8")
    part.replace(folder / CARD_FILE)


def load_card(folder: str | Path) -> LocaliserCard:
    """Raises FileNotFoundError where there is none, ValueError where it is damaged or of something else."""
    path = Path(folder) / CARD_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no localiser: {CARD_FILE} is missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version is {content['format_version']}, this version reads {FORMAT_VERSION}")
        spec = content["config"]
        config = LocaliserConfig(**{**spec, "pooling": Pooling(**spec["pooling"])})
        return LocaliserCard(config, tuple(content["classes"]), content["extra"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no localiser's card: {type(error).__name__}: {error}") from error


def load_localiser(folder: str | Path, device: str = "cpu") -> tuple[Localiser, LocaliserCard]:
    """A saved localiser in evaluation mode on a device ("auto": the GPU where there is one), and its card.

    Raises:
        FileNotFoundError: a file is missing. ValueError: a damaged card, or weights that are not those of the card.
    """
    folder = Path(folder)
    card = load_card(folder)
    if not (folder / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(f"{folder} holds no localiser: {WEIGHTS_FILE} is missing")
    localiser = Localiser(card.config)
    try:
        localiser.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder / WEIGHTS_FILE} does not hold the weights of its card: {error}") from error
    return localiser.to(pick_device(device)).eval(), card
