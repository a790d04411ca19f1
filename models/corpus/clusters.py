"""Groups of like vectors, found the same way every time."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def unit(vectors: npt.NDArray[np.floating]) -> Floats:
    """Vectors [..., D] over their length; zeros stay zeros."""
    values = np.asarray(vectors, np.float32)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-8), np.float32)


def clusters(
    vectors: npt.NDArray[np.floating], count: int, same: float = 1 - 1e-4, rounds: int = 10
) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Spherical k-means: (unit centres float32 [k, D], the centre of each vector, intp [n]) of vectors [n, D].

    Starts from the vector nearest the mean, then whatever is farthest from all centres so far: no draw is made.
    count: at most this many come. same: no centre is added once all vectors have this cosine with one.
    """
    points = unit(vectors)
    if not len(points):
        return np.zeros((0, points.shape[-1]), np.float32), np.zeros(0, np.intp)
    chosen = [int((points @ points.mean(0)).argmax())]
    nearest = points @ points[chosen[0]]
    while len(chosen) < count and nearest.min() < same:
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, points @ points[chosen[-1]])
    centres = points[chosen]
    member = (points @ centres.T).argmax(1)
    for _ in range(rounds):
        sums = np.stack([points[member == k].sum(0) for k in range(len(centres))])
        # An empty cluster keeps the centre it had.
        centres = np.where(np.abs(sums).sum(1, keepdims=True) > 0, unit(sums), centres)
        moved = (points @ centres.T).argmax(1)
        if (moved == member).all():
            break
        member = moved
    used, member = np.unique(member, return_inverse=True)
    return centres[used], member
