"""What *decide* knows in words: the prompts of a class set in CLIP's text space, and what else is said of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from models.decide.types import TextBank
from models.text.attributes import attribute_bank, enrich
from models.text.concepts import background_concepts
from pipelines.classes import ClassSet
from pipelines.config import TextConfig, UsageError, config_digest
from pipelines.descriptions.providers import Builtin, DescriptionError, DescriptionFile, Endpoint, Provider

# What a run that knows something writes beside its config.yaml.
KNOWLEDGE = "text.yaml"
# The published bank has 112 clusters for some 400 sentences.
SENTENCES_A_CLUSTER = 4


@dataclass(frozen=True)
class Knowledge:
    """What is known beside the class set; a run keeps it, so that its text bank can be made again.

    descriptions: class name -> sentences. concepts: background words beside those of the class set.
    """

    descriptions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    attribute_temperature: float = 0.0
    attribute_keep: float = 0.0
    attribute_clusters: int = 0
    concepts: Sequence[str] = ()

    @property
    def digest(self) -> str:
        """sha256, hex; "" where nothing is known."""
        return "" if self == NOTHING else config_digest(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `Knowledge(**found)` gives the same back."""
        return {
            **asdict(self),
            "descriptions": {name: list(texts) for name, texts in self.descriptions.items()},
            "concepts": list(self.concepts),
        }


NOTHING = Knowledge()


def knowledge(told: TextConfig, classes: ClassSet, answers: str, ask: bool = True) -> Knowledge:
    """What the config asks to be known. Raises UsageError.

    answers: where those of a language model are kept. ask: False takes only what is there, and leaves nothing behind.
    """
    concepts: tuple[str, ...] = ()
    if told.concepts and classes.background is not None:
        names = [name for entry in classes.classes for name in (entry.name, *entry.synonyms, *entry.prompts)]
        words = set(classes.background.words)
        concepts = tuple(word for word in background_concepts(names) if word not in words)
    provider = _provider(told, answers, ask)
    if provider is None:
        return Knowledge(concepts=concepts)
    try:
        looks = provider.describe(classes)
    except DescriptionError as error:
        raise UsageError(f"--text.descriptions: {error}") from error
    if not looks and ask:
        raise UsageError(f"--text.descriptions: {told.descriptions} describes none of {', '.join(classes.names[:8])}")
    clusters = told.attribute_clusters or -(-sum(map(len, looks.values())) // SENTENCES_A_CLUSTER)
    return Knowledge(looks, told.attribute_temperature, told.attribute_keep, clusters, concepts)


def _provider(told: TextConfig, answers: str, ask: bool) -> Provider | None:
    source = told.descriptions
    if source is None:
        return None
    if source == "builtin":
        return Builtin()
    if told.is_endpoint:
        seconds, retries = told.timeout_seconds, told.retries
        return Endpoint(source, told.model, answers, told.key_variable, seconds, retries, ask=ask)
    return DescriptionFile(source)


def text_bank(clip_path: str, classes: ClassSet, known: Knowledge = NOTHING) -> TextBank:
    """One unit embedding for each text of the class set: the mean over its templates (Radford et al. 2021, 3.1.4).

    With concepts there are more background words; with descriptions a class has one embedding, that of its texts
    enriched by the attributes of all classes (models/text/attributes.py).

    clip_path: a local CLIP checkpoint; its text tower runs on the CPU.
    """
    from models.clip.text import TextEncoder

    encoder = TextEncoder(clip_path, "cpu")
    texts, class_of = classes.texts()
    texts += known.concepts
    class_of = np.concatenate([class_of, np.full(len(known.concepts), -1, np.int32)])
    prompts = [template.replace("{}", text) for text in texts for template in classes.templates]
    embedded = encoder.encode(prompts)
    bank = TextBank(_unit(embedded.reshape(-1, len(classes.templates), embedded.shape[-1]).mean(1)), class_of)
    if not known.descriptions:
        return bank
    sentences = [text for looks in known.descriptions.values() for text in looks]
    attributes = attribute_bank(encoder.encode(sentences), known.attribute_clusters)
    return _enriched(bank, attributes, known)


def _enriched(bank: TextBank, attributes: npt.NDArray[np.float32], known: Knowledge) -> TextBank:
    rows = np.unique(bank.class_of[bank.class_of >= 0])
    classes = _unit(np.stack([bank.emb[bank.class_of == row].sum(0) for row in rows]))
    made = enrich(classes, attributes, known.attribute_temperature, known.attribute_keep)
    words = bank.class_of < 0
    return TextBank(np.concatenate([made, bank.emb[words]]), np.concatenate([rows, bank.class_of[words]]))


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
