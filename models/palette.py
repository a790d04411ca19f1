"""The PASCAL VOC colour map, by which class ids without a colour of their own are painted."""


def default_color(id: int) -> tuple[int, int, int]:
    """The colour of the id in the PASCAL VOC colour map: 0 is black, distinct for every id below 2**24."""
    red = green = blue = 0
    for bit in range(8):
        red |= (id & 1) << (7 - bit)
        green |= (id >> 1 & 1) << (7 - bit)
        blue |= (id >> 2 & 1) << (7 - bit)
        id >>= 3
    return red, green, blue
