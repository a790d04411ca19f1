"""What *observe* can be told. Free of torch, so that `--help` is fast; everything here is part of the evidence key."""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

# Raise it whenever the same picture and config give other evidence: it is part of the evidence key.
ALGORITHM_VERSION = 1


def _option(
    default: Any, text: str, low: float | None = None, high: float | None = None, *, later: bool = False
) -> Any:
    """A field with its help text and, for numbers, its inclusive range.

    later: added when there was evidence without it, which its default describes; see `key_fields`.
    """
    metadata: dict[str, Any] = {"help": text, "later": later}
    if low is not None:
        metadata["range"] = (low, high)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ClipObserveConfig:
    """How dense CLIP features are made."""

    model: str = _option(
        "pocket:clip", "Model reference: pocket:clip, hf:openai/clip-vit-base-patch16, a path or a URL."
    )
    size_px: int = _option(
        0,
        "The picture is resized, aspect kept, to about the area of a square of this side. "
        "0: what the checkpoint asks for (pocket 320), or 1.5 times its training size (224 -> 336).",
        0,
        2048,
    )
    attention: Literal["auto", "plain", "vv", "qq", "kk", "qq+kk+vv"] = _option(
        "auto",
        "How the last blocks mix patches: plain (as trained), vv (value-value, row by row closer to the object), qq, "
        "kk (queries, keys), qq+kk+vv (the mean of the three), auto: what the checkpoint asks for, vv for official "
        "CLIP.",
    )
    surgery_blocks: int = _option(
        5, "Last blocks of the image tower that attention=vv and the like, and token_weight, run on.", 1, 64
    )
    scales: tuple[float, ...] = _option(
        (),
        "Sizes, as factors of size_px, whose feature maps are averaged; time grows with their squares. Default: what "
        "the checkpoint asks for (pocket 1,1.5; any other 1).",
        0.25,
        4.0,
    )
    flip: bool = _option(False, "Also average the features of the mirrored picture; doubles the time.")
    # How patches attend, and how closely the picture is looked at
    extra_attention: float = _option(
        0.0,
        "Weight of an attention by the likeness of whole tokens, above the average one, which is added to that of "
        "attention=vv and the like (0: none).",
        0.0,
        4.0,
        later=True,
    )
    token_weight: float = _option(
        0.0,
        "Patches that the class token looks at count for more in the last blocks, the others for less: by this share "
        "between first and last (0: all alike).",
        0.0,
        2.0,
        later=True,
    )
    tiles: tuple[int, ...] = _option(
        (),
        "Also look at the picture in k x k overlapping tiles, for each of these k; 2 costs 4 times the whole.",
        2,
        8,
        later=True,
    )
    tiles_overlap: float = _option(0.25, "Share of such a tile that overlaps the next one.", 0.0, 0.75, later=True)
    tiles_grid: float = _option(
        2.0, "With tiles: how much finer the grid of the averaged features is than that of the whole.", 1.0, 4.0,
        later=True,
    )  # fmt: skip


@dataclass(frozen=True)
class SamObserveConfig:
    """How the bank of class-free SAM masks is made."""

    model: str = _option(
        "pocket:sam", "Model reference: pocket:sam, or an official sam_vit_{b,l,h}.pth by path or URL."
    )
    max_masks: int = _option(40, "Masks kept of an image, best first.", 1, 1024)
    cluster_counts: tuple[int, ...] = _option(
        (2, 3, 4, 6, 8, 12),
        "Patch features are cut into this many clusters, once for each number; their parts become boxes.",
        2,
        64,
    )
    cluster_thresholds: tuple[float, ...] = _option(
        (0.25, 0.5), "What is like a cluster, by more than these shares of its maximum, is boxed as well.", 0.0, 1.0
    )
    max_boxes: int = _option(40, "Boxes from clusters that are decoded, the largest first.", 0, 1024)
    grid_points: int = _option(3, "Points along each side of a sparse grid of single-point prompts; 0: none.", 0, 64)
    min_area: float = _option(0.002, "Masks that cover less than this share of the image are dropped.", 0.0, 1.0)
    max_area: float = _option(0.98, "Masks that cover more than this share of the image are dropped.", 0.0, 1.0)
    min_iou: float = _option(0.2, "Masks whose IoU, as SAM itself predicts it, is lower are dropped.", 0.0, 1.0)
    min_stability: float = _option(0.3, "Masks that change more than this with the threshold are dropped.", 0.0, 1.0)
    stability_offset: float = _option(1.0, "Stability: IoU of the mask at logit +offset and at -offset.", 0.0, 10.0)
    duplicate_iou: float = _option(0.85, "Of two masks that overlap by more (IoU), the worse one is dropped.", 0.0, 1.0)
    mask_px: int = _option(
        96, "Longer side of the stored masks, at most; SAM's own low resolution if that is less.", 16, 1024
    )


@dataclass(frozen=True)
class ObserveConfig:
    """Everything that changes the evidence of an image, besides its bytes."""

    clip: ClipObserveConfig = field(default_factory=ClipObserveConfig)
    sam: SamObserveConfig = field(default_factory=SamObserveConfig)
    picture_px: int = _option(
        512, "Pictures are reduced on read to at most this longer side; 1024 for official SAM weights.", 32, 8192
    )
    guide_px: int = _option(384, "Longer side of the edge guide that refinement and reports use.", 32, 2048)
    tile_above_px: int = _option(
        6144, "An image whose longer side is greater is cut into overlapping tiles; 0: never.", 0, 1_000_000
    )
    tile_px: int = _option(2048, "Side of a tile, in pixels of the full-size image.", 64, 65536)
    tile_overlap: float = _option(0.2, "Share of a tile that overlaps the next one.", 0.0, 0.75)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _option(
        "auto", "Number format of the forward pass; auto: float32 on the CPU, bfloat16 (or float16) autocast on a GPU."
    )
    micro_batch: int = _option(
        0,
        "Pictures of one shape in a forward pass; 0: 1 on the CPU (so that neighbours cannot matter), 16 on a GPU.",
        0,
        1024,
    )


def key_fields(config: Any) -> dict[str, Any]:
    """A config, a dataclass, as it enters keys: every field, but a later one only where it is not at its default, so
    that what was made before it existed stays valid."""
    found: dict[str, Any] = {}
    for one in fields(config):
        value = getattr(config, one.name)
        if not (one.metadata.get("later") and value == one.default):
            found[one.name] = key_fields(value) if is_dataclass(value) else value
    return found


@dataclass(frozen=True)
class HeatPromptConfig:
    """How class heat maps prompt SAM: the optional second kind of evidence, which knows the classes."""

    kind: Literal["none", "box", "distance", "heatmap"] = _option(
        "none",
        "none: SAM is not asked about classes, so a new class needs no observing; box: a box around each component of "
        "a class's heat; distance: points spread over each component by its distance transform, and as many outside "
        "(GPRN); heatmap: the hottest cells against the coldest (GenSAM).",
    )
    threshold: float = _option(0.25, "Heat above it, of a map whose maximum is 1, belongs to a component.", 0.0, 1.0)
    margin: float = _option(0.0, "Boxes grow by this share of their size on every side.", 0.0, 0.5)
    points: int = _option(3, "Object points of a component, and as many of the background.", 1, 20)
    max_components: int = _option(8, "Components of a class that are prompted, the largest first.", 1, 64)
    iterations: int = _option(
        1,
        "How often SAM is asked about a class (GenSAM): each answer weighs the heat for the next one, and the answer "
        "nearest to the mean of all is taken. 1: once.",
        1,
        16,
    )
    feed_logit: bool = _option(
        False,
        "iterations > 1: SAM also sees its last answer as a mask prompt. For official SAM weights: the pocket SAM "
        "never learned from mask prompts.",
    )
