"""The page of the images whose labels changed most between two snapshots."""

from pipelines.report.render import Hatch, Layer
from pipelines.report.worst import DIFFERENCES, WorstPage

WORDS = ("the same", "background now", "an object now", "another class")


class ChangesPage(WorstPage):
    """Takes (old, new) labels as judged items: `gold` is the old map, `found` the new one, `iou` the share of pixels
    that are what they were, so that the most changed image is the worst."""

    template = "changes.html.j2"
    layer_list = (
        Layer("image", "i", "Image", ""),
        Layer("gold", "b", "Before", "side"),
        Layer("label", "a", "After", "side"),
        Layer("confidence", "c", "Confidence", "confidence"),
        Layer("difference", "d", "Changes", "difference"),
    )
    hatch = Hatch("Hatch unknown", "hatch what had no class before")
    invitation = "Point at a pixel to see what it was and what it is now."
    differences = tuple((word, color) for word, (_, color) in zip(WORDS, DIFFERENCES, strict=True))
    stranger = "a class that the old labels do not know"
