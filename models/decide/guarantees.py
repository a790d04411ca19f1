"""What weak labels promise, kept at full resolution: boxes bound, and what is said to be there is there."""

import numpy as np
import numpy.typing as npt

from models.decide.boxes import grid_boxes, inside_box, inside_boxes
from models.decide.scene import Scene

Maps = npt.NDArray[np.float32]


def boxed_rows(scene: Scene) -> list[int]:
    """Those of the K classes that have boxes."""
    return [int(k) for k in np.flatnonzero(np.isin(scene.rows, scene.weak.box_classes))]


def allowed_of(scene: Scene, index: int, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Pixels of a grid `size` that the class at this index may have: inside its boxes, or anywhere if it has none."""
    own = scene.weak.box_classes == scene.rows[index]
    if not own.any():
        return np.ones(size, bool)
    return inside_boxes(grid_boxes(scene.weak, scene.full, size)[own], size)


def keep_inside_boxes(strength: Maps, scene: Scene) -> Maps:
    """Strength [K, gh, gw] without what enlarging let run over the sides of the boxes."""
    boxed = boxed_rows(scene)
    if boxed:
        strength = strength.copy()  # It may be the scene's own heat, which others may want to use again.
    for index in boxed:
        strength[index][~allowed_of(scene, index, (strength.shape[1], strength.shape[2]))] = 0.0
    return strength


def clear_outside_boxes(won: npt.NDArray[np.int32], scene: Scene) -> None:
    """The same for winners at full size [H, W], in place, where there is a background to fall back to."""
    if scene.classes.background_id is None:
        return
    for index in boxed_rows(scene):
        won[(won == index) & ~allowed_of(scene, index, scene.full)] = -1


def appear(won: npt.NDArray[np.int32], strength: Maps, scene: Scene) -> None:
    """Write back, in place, each class that must appear, and each box's class, if it was lost on the way to full size.

    It gets the full-size pixels that its strongest guide pixel (inside its box) covers: at least one.
    """
    size = (strength.shape[1], strength.shape[2])
    full_boxes, guide_boxes = grid_boxes(scene.weak, scene.full, scene.full), grid_boxes(scene.weak, scene.full, size)
    for box, guide_box, row in zip(full_boxes, guide_boxes, scene.weak.box_classes, strict=True):
        index = int(np.searchsorted(scene.rows, row))
        _restore(won, strength, index, inside_box(box, scene.full), inside_box(guide_box, size))
    for needed in np.flatnonzero(scene.must):
        _restore(won, strength, int(needed), None, None)


def _restore(
    won: npt.NDArray[np.int32],
    strength: Maps,
    index: int,
    inside: npt.NDArray[np.bool_] | None,
    inside_guide: npt.NDArray[np.bool_] | None,
) -> None:
    held = won == index
    if (held if inside is None else held & inside).any():
        return
    rivals = np.delete(strength, index, axis=0).max(0, initial=0.0)
    margin = strength[index] - rivals
    if inside_guide is not None:
        margin = np.where(inside_guide, margin, -np.inf)
    y, x = np.unravel_index(int(margin.argmax()), margin.shape)
    rows, columns = (
        slice(int(at * full / small), max(int((at + 1) * full / small), int(at * full / small) + 1))
        for at, full, small in ((y, won.shape[0], margin.shape[0]), (x, won.shape[1], margin.shape[1]))
    )
    part = won[rows, columns]
    part[slice(None) if inside is None else inside[rows, columns]] = index
