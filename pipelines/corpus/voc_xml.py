"""VOC's Annotations/NAME.xml."""

from xml.etree import ElementTree

Objects = list[tuple[str, list[float] | None]]


def parse_objects(data: bytes) -> Objects:
    """(class, [x0, y0, x1, y1] or None) of every object; pixels from 0, VOC's own start at 1. Raises ValueError."""
    try:
        root = ElementTree.fromstring(data)
        objects: Objects = []
        for element in root.iter("object"):
            box = element.find("bndbox")
            corners = None
            if box is not None:
                x0, y0, x1, y1 = (float(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax"))
                corners = [x0 - 1, y0 - 1, x1, y1]
            objects.append((element.findtext("name", "").strip(), corners))
        return objects
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
