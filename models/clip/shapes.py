"""Aspect buckets: pictures of many shapes become few, so that batches form."""

import math

ASPECTS = (1.0, 4 / 3, 3 / 2, 2.0, 3.0, 5.0, 8.0)  # Longer side by shorter: photographs are 1, 4:3 or 3:2.


def bucket(height: float, width: float, size_px: int, patch_px: int) -> tuple[int, int]:
    """Size in pixels that a picture is resized to: multiples of the patch, the nearest bucket's aspect.

    The area is about size_px squared whatever the aspect. An aspect beyond 8:1 is squeezed into 8:1: grids cover the
    whole picture all the same, with patches that are not square.
    """
    longer_by_shorter = max(height, width) / min(height, width)
    aspect = min(ASPECTS, key=lambda a: abs(math.log(a / longer_by_shorter)))
    side = size_px / patch_px
    shorter = max(1, round(side / math.sqrt(aspect)))
    longer = max(1, round(side * math.sqrt(aspect)))
    rows, columns = (shorter, longer) if height < width else (longer, shorter)
    return rows * patch_px, columns * patch_px
