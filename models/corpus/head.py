"""A linear head over patch features, fitted on the corpus's own soft labels.

Labels of one image are noisy; a linear map over all images' features keeps what they agree on. It learns as *decide*
labels: an image's patches choose among the background and the classes that may be in it, and no others.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]
Maps = npt.NDArray[np.float32]
Chunk = tuple[FloatArray, FloatArray, BoolArray]
"""Patches of some images: features float [m, D], targets float [m, C+1] 0..1, allowed bool [m, C+1]. Column 0 is the
background, column c + 1 class row c."""
Chunks = Callable[[int], Iterable[Chunk]]
"""All patches of a corpus, chunk by chunk, for one epoch (0, 1, ..); best in another order in each."""

RARE = 0.002
"""Added to a class's share of the patches before it is balanced, so that very rare classes do not outweigh all."""
NEVER = -1e9


@dataclass(frozen=True)
class HeadConfig:
    """How the head is fitted. The defaults were chosen on gold masks only.

    epochs: passes over all patches. lr: AdamW's, falling to 0 along a cosine. weight_decay: AdamW's. batch: patches a
    step. buffer: patches held in memory to be mixed. seed: order of the patches. class_balance: power of the inverse
    frequency that a class weighs with; 0: as frequent as it is, 1: all classes alike. min_images: classes known to be
    in fewer images get no head row. patches: of an image, at most. target_temperature, target_background: see
    `soft_targets`. rounds: how often labels are made and learned from, each time with the head of before. trust_images:
    a class that was learned from so many images is trusted by half.
    """

    epochs: int = 6
    lr: float = 2e-3
    weight_decay: float = 1e-4
    batch: int = 4096
    buffer: int = 131072
    seed: int = 0
    class_balance: float = 0.5
    min_images: int = 10
    patches: int = 128
    rounds: int = 2
    trust_images: int = 20
    target_temperature: float = 0.11
    target_background: float = 0.5


@dataclass(frozen=True, eq=False)
class Head:
    """A fitted head: logits = weight @ ((features - mean) / scale) + bias.

    mean, scale: float32 [D]. weight: float32 [C+1, D], bias: float32 [C+1]; row 0 is the background. valid: bool [C],
    the classes that it knows. trust: float32 [C], 0..1, by how many images a class was learned from. background:
    whether the class set has one.
    """

    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    valid: BoolArray
    trust: npt.NDArray[np.float32]
    background: bool = True


@dataclass(frozen=True)
class Moments:
    """Sums over patches, float64, that can be added up over parts of a corpus in any order."""

    count: int
    total: npt.NDArray[np.float64]
    square: npt.NDArray[np.float64]
    mass: npt.NDArray[np.float64]
    allowed: BoolArray

    @classmethod
    def of(cls, chunk: Chunk) -> "Moments":
        features, targets, allowed = chunk
        values = np.asarray(features, np.float64)
        mass = np.where(allowed, targets, 0).sum(0, dtype=np.float64)
        return cls(len(values), values.sum(0), (values * values).sum(0), mass, np.asarray(allowed.any(0)))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.square + other.square,
            self.mass + other.mass,
            self.allowed | other.allowed,
        )


def soft_targets(strength: FloatArray, allowed: BoolArray, config: HeadConfig) -> Maps:
    """What the head is to learn from fused votes: float32 [n, C+1], rows sum to 1.

    strength: float [n, C], 0..1, how strongly each class was voted for in each patch; allowed: bool [n, C+1]. A softmax
    over what is allowed, where the background always has `target_background`. Where nothing is allowed the row is 0.
    """
    background = np.full((len(strength), 1), config.target_background, np.float32)
    logits = np.concatenate([background, strength], 1).astype(np.float32) / np.float32(config.target_temperature)
    logits = np.where(allowed, logits, -np.inf)
    top = logits.max(1, keepdims=True)
    shares = np.exp(logits - np.where(np.isfinite(top), top, 0))
    return np.asarray(shares / np.maximum(shares.sum(1, keepdims=True), 1e-12), np.float32)


def fit_head(
    features: FloatArray,
    targets: FloatArray,
    allowed: BoolArray,
    config: HeadConfig,
    images: npt.NDArray[np.integer] | None = None,
) -> Head:
    """Fit on patches that are in memory; see `fit_head_stream` for those that are not.

    features: float [n, D]. targets: float [n, C+1], soft. allowed: bool [n, C+1].
    """

    def chunks(epoch: int) -> Iterator[Chunk]:
        order = np.random.default_rng([config.seed, epoch]).permutation(len(features))
        for start in range(0, len(order), config.batch):
            rows = order[start : start + config.batch]
            yield features[rows], targets[rows], allowed[rows]

    return fit_head_stream(chunks, config, images)


def fit_head_stream(chunks: Chunks, config: HeadConfig, images: npt.NDArray[np.integer] | None = None) -> Head:
    """Fit on patches that are read chunk by chunk, once for their moments and once an epoch.

    images: int [C], in how many images each class is known to be; None: all classes that are allowed anywhere.
    A class without a row is learnt as nothing: its share of a patch's target weighs that patch down.
    The same chunks and seed give the same head. Raises ValueError where there is nothing to learn from.
    """
    import torch  # not where a label is decided

    moments = _moments(chunks)
    usable = moments.allowed.copy()
    if images is not None:
        usable[1:] &= np.asarray(images) >= config.min_images
    if not usable[1:].any():
        raise ValueError("no class is in enough images to fit a head")
    mean = moments.total / moments.count
    deviation = np.sqrt(np.maximum(moments.square / moments.count - mean * mean, 0))
    scale = np.where(deviation > 1e-6, deviation, 1.0)
    centre, spread = (torch.from_numpy(values.astype(np.float32)) for values in (mean, scale))

    weigh = torch.from_numpy(_class_weights(moments, usable, config.class_balance))
    # Zeros: the loss is convex in a linear head, and no draw decides where it starts.
    weight = torch.zeros(len(usable), len(mean), requires_grad=True)
    bias = torch.zeros(len(usable), requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], config.lr, weight_decay=config.weight_decay)
    steps = -(-config.epochs * moments.count // config.batch)
    for step, (features, targets, allowed) in enumerate(_batches(chunks, config)):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * 0.5 * (1 + np.cos(np.pi * step / steps))
        x = (torch.from_numpy(features.astype(np.float32)) - centre) / spread
        open_to = torch.from_numpy(allowed & usable)
        loss = _loss(x @ weight.T + bias, torch.from_numpy(targets.astype(np.float32)), open_to, weigh)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trust = np.ones(len(usable) - 1, np.float32)
    if images is not None:
        trust = np.asarray(images / (np.asarray(images) + max(config.trust_images, 1e-9)), np.float32)
    weights = weight.detach().numpy(), bias.detach().numpy()
    return Head(centre.numpy(), spread.numpy(), *weights, usable[1:], trust, bool(usable[0]))


def head_heat(
    head: Head,
    features: FloatArray,
    rows: npt.NDArray[np.integer],
    text: Maps | None = None,
    temperature: float = 1.0,
) -> Maps:
    """Heat of the classes that take part in an image, float32 [K, h, w], 0..1, in place of the text's.

    features: float [h, w, D]. rows: int [K], class rows. A softmax over the background and those classes, each map over
    its own maximum. text: float32 [K, h, w], the heat of what the head does not know, or as far as it is not trusted
    (0 where None). temperature: logits are divided by it.
    """
    height, width, depth = features.shape
    maps = np.zeros((len(rows), height, width), np.float32) if text is None else np.array(text, np.float32)
    known = np.flatnonzero(head.valid[rows]) if len(rows) else np.zeros(0, np.intp)
    if not len(known):
        return maps
    columns = np.concatenate([np.zeros(int(head.background), np.intp), rows[known] + 1])
    if len(columns) < 2:
        return maps  # It chooses between what it knows, and of one thing alone it knows nothing.
    scaled = (np.asarray(features, np.float32).reshape(-1, depth) - head.mean) / head.scale
    logits = (head.weight[columns] @ scaled.T + head.bias[columns, None]) / np.float32(temperature)
    shares = np.exp(logits - logits.max(0))
    shares = (shares / shares.sum(0))[int(head.background) :]
    shares = shares / np.maximum(shares.max(1, keepdims=True), 1e-6)
    trust = head.trust[rows[known], None, None]
    maps[known] = trust * shares.reshape(len(known), height, width) + (1 - trust) * maps[known]
    return maps


def _loss(logits: "Tensor", targets: "Tensor", allowed: "Tensor", weigh: "Tensor") -> "Tensor":
    """Mean cross-entropy of float [m, C+1] over what is allowed, each class weighed by `weigh` [C+1]."""
    logs = logits.masked_fill(~allowed, NEVER).log_softmax(1).clamp_min(-50)
    return -(targets * allowed * weigh * logs).sum(1).mean()


def _class_weights(moments: Moments, usable: BoolArray, balance: float) -> npt.NDArray[np.float32]:
    """float32 [C+1], of mean 1 over the target mass."""
    share = np.where(usable, moments.mass, 0) / moments.count
    weights = (share + RARE) ** -balance
    return np.asarray(weights / max(float((weights * share).sum()), 1e-12), np.float32)


def _moments(chunks: Chunks) -> Moments:
    sums: Moments | None = None
    for chunk in chunks(0):
        sums = Moments.of(chunk) if sums is None else sums + Moments.of(chunk)
    if sums is None or not sums.count:
        raise ValueError("there is no patch to fit a head on")
    return sums


def _batches(chunks: Chunks, config: HeadConfig) -> Iterator[Chunk]:
    """All epochs' patches in batches, mixed in a buffer; what is left of one epoch goes into the next."""
    rng = np.random.default_rng(config.seed)
    held: list[Chunk] = []
    for chunk in (chunk for epoch in range(config.epochs) for chunk in chunks(epoch)):
        held.append(chunk)
        if sum(len(features) for features, _, _ in held) >= config.buffer + config.batch:
            pool = _mixed(held, rng)
            # Half stays behind, so that images far apart in the corpus meet in one batch.
            used = max(config.batch, len(pool[0]) // 2 // config.batch * config.batch)
            yield from _cut(pool, 0, used, config.batch)
            held = [(pool[0][used:], pool[1][used:], pool[2][used:])]
    if held:
        pool = _mixed(held, rng)
        yield from _cut(pool, 0, len(pool[0]), config.batch)


def _mixed(held: list[Chunk], rng: np.random.Generator) -> Chunk:
    order = rng.permutation(sum(len(features) for features, _, _ in held))
    features, targets, allowed = (np.concatenate(parts)[order] for parts in zip(*held, strict=True))
    return features, targets, allowed


def _cut(pool: Chunk, start: int, end: int, size: int) -> Iterator[Chunk]:
    for first in range(start, end, size):
        last = min(first + size, end)
        yield pool[0][first:last], pool[1][first:last], pool[2][first:last]
