"""The text tower of the pocket CLIP learns MiniLM's embeddings of many prompts (distillation, Hinton et al., 2015)."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from models.pocket import text_words
from models.pocket.clip_config import ClipTrainConfig
from models.pocket.clip_net import CLIPModel, build_clip, pocket_clip_config
from models.pocket.fit import Phase, fit
from models.pocket.text_space import (
    TextSpace,
    cut_tokenizer,
    encode_ids,
    minilm_embed,
    minilm_word_embeddings,
    training_names,
)  # fmt: skip

PLAIN = ("a photo of a {}.", "a {}")


def prepare_text(config: ClipTrainConfig, cache: Path) -> tuple[list[str], Tensor, TextSpace]:
    """Random prompts, their MiniLM embeddings float32 [N, 384] (kept in the cache), and the space fitted to them."""
    made = text_words.prompts(training_names(), config.prompts, config.seed)
    plain = [*dict.fromkeys(training_names())]
    texts = [*dict.fromkeys([*plain, *(template.format(name) for name in plain for template in PLAIN), *made])]
    path = cache / f"prompts_{len(texts)}_{config.seed}.pt"
    if path.exists():
        embeddings = torch.load(path, weights_only=True)
    else:
        embeddings = minilm_embed(texts)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(embeddings, path)
    return texts, embeddings, TextSpace.fit(embeddings)


def new_clip(texts: list[str], output: Path, seed: int) -> tuple[CLIPModel, dict[str, object]]:
    """Cut the tokenizer into `output` and build the model with a warm-started word table; the model and its config."""
    pieces = cut_tokenizer(texts, output)
    torch.manual_seed(seed)
    config = pocket_clip_config(len(pieces), eos_token_id=3)
    model = build_clip(config)
    table = model.text_model.embeddings.token_embedding.weight
    with torch.no_grad():
        table.copy_(minilm_word_embeddings(pieces, table.shape[1]))
    return model, config


def text_features(model: CLIPModel, ids: Tensor) -> Tensor:
    """Unit text embeddings float [N, 256] of token ids int64 [N, T], padded with 0."""
    pooled = model.text_model(input_ids=ids, attention_mask=(ids != 0).long()).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)


@torch.inference_mode()
def encode_texts(model: CLIPModel, folder: Path, texts: list[str]) -> Tensor:
    """Unit embeddings float32 [N, 256] by the model's own text tower; `folder` holds the tokenizer."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return torch.cat(
        [text_features(model, encode_ids(tokenizer, texts[i : i + 256])) for i in range(0, len(texts), 256)]
    )


def train_text(config: ClipTrainConfig, model: CLIPModel, cache: Path, output: Path) -> list[float]:
    """Fit the text tower, in place; returns the losses."""
    texts, embeddings, space = prepare_text(config, cache)
    targets = space.project(embeddings)
    tokenizer = Tokenizer.from_file(str(output / "tokenizer.json"))
    ids = encode_ids(tokenizer, texts)
    lengths = (ids != 0).sum(1)

    def loss_of(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        rows = torch.randint(len(texts), (config.batch_prompts,), generator=generator)
        made = text_features(model, ids[rows, : int(lengths[rows].max())])
        wanted = targets[rows]
        distance = 1 - (made * wanted).sum(1).mean()
        # Which names resemble each other matters as much as where each one is.
        relations = F.mse_loss(made @ made.T, wanted @ wanted.T)
        return distance + 10 * relations

    phase = Phase(
        "text", cache, config.minutes / 3, config.text_learning_rate, config.max_steps, config.checkpoint_minutes
    )
    tower = torch.nn.ModuleList([model.text_model, model.text_projection])
    model.train()
    losses = fit(phase, tower, tower.parameters(), loss_of, config.resume)
    model.eval()
    return losses
