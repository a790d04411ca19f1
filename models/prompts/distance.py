"""Points spread over a mask by its distance transform: the adaptive point selection of GPRN (2024)."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage


def distance_points(
    mask: npt.NDArray[np.bool_], count: int, smooth_px: float = 0.1, spread: float = 1.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Up to `count` points inside a mask bool [h, w], deepest first.

    Returns points float32 [N, 2] (x y, pixel centres) and their depth float32 [N] (distance to the mask's rim in
    pixels), which never increases. The deepest pixel is taken, a disc of `spread` times its depth around it is closed,
    and so on; fewer points come back when nothing is left open. The image's frame counts as rim. smooth_px: Gaussian
    blur of the distances, which settles ties. For negative points pass the mask's complement.
    """
    # A border of background makes the frame a rim: the centre of what we see of an object, not of its cut side.
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].astype(np.float32)
    score = np.where(mask, ndimage.gaussian_filter(depth, smooth_px) if smooth_px > 0 else depth, 0)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    points: list[tuple[float, float]] = []
    depths: list[float] = []
    for _ in range(count):
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        if score[row, column] <= 0:
            break
        points.append((float(column) + 0.5, float(row) + 0.5))
        depths.append(min(float(depth[row, column]), depths[-1] if depths else np.inf))
        reach = max(spread * float(depth[row, column]), 1.0)
        score[(y - row) ** 2 + (x - column) ** 2 <= reach * reach] = 0
    return np.asarray(points, np.float32).reshape(-1, 2), np.asarray(depths, np.float32)
