"""The page of the worst images without a browser: which they are, and what their layers say."""

import io

import numpy as np
from PIL import Image

from pipelines.report import layers
from pipelines.report.worst import DIFFERENCES, JudgedItem, WorstPage, difference_map

CLASSES = [("background", (0, 0, 0)), ("cat", (64, 0, 0)), ("dog", (64, 0, 128))]


def judged(name: str, iou: float) -> JudgedItem:
    gold = np.zeros((8, 8), np.int32)
    gold[:4] = 1
    return JudgedItem(
        name, np.zeros((8, 8, 3), np.uint8), gold, gold, np.ones((8, 8), np.float32), iou, {0: 1.0, 1: 0.2}
    )


def test_the_worst_are_kept_whatever_the_order() -> None:
    ious = {f"{n:02d}": (n * 37 % 50) / 50 for n in range(50)}
    for names in (list(ious), list(reversed(ious))):
        page = WorstPage(CLASSES, 0, images=5)
        for name in names:
            page.add(judged(name, ious[name]))
        assert [card.iou for card in page.cards()] == sorted(ious.values())[:5]
    assert WorstPage(CLASSES, 0, images=0).cards() == []


def test_kinds_of_mistakes() -> None:
    gold = np.array([[0, 0, 1, 1, 1, -1]])
    found = np.array([[0, 1, 1, 0, 2, 2]])
    assert difference_map(gold, found, 0).tolist() == [[0, 2, 0, 1, 3, 0]]
    assert difference_map(gold, found, None).tolist() == [[0, 3, 0, 3, 3, 0]]


def test_a_card_says_what_the_layers_show() -> None:
    page = WorstPage(CLASSES, 0, images=3)
    one = judged("a", 0.4)
    found = one.gold.copy()
    found[:2] = 3  # a class that the gold does not know
    gold = one.gold.copy()
    gold[-1] = -1
    page.add(JudgedItem(**{**vars(one), "found": found, "gold": gold}))
    (card,) = page.cards()
    assert card.accuracy == (8 - 2 - 1) * 8 / (7 * 8)
    assert card.class_iou[0] == (1, 0.2)
    label = np.asarray(Image.open(io.BytesIO(card.label)).convert("RGBA"))
    assert label[0, 0].tolist() == [255, 0, 255, 255] and label[-1, 0, 3] == 0
    seen = np.asarray(Image.open(io.BytesIO(card.gold)).convert("RGBA"))
    assert seen[-1, 0].tolist() == [128, 128, 128, 255], "what nobody judged is grey"
    difference = np.asarray(Image.open(io.BytesIO(card.difference)).convert("RGBA"))
    assert tuple(difference[0, 0, :3]) == DIFFERENCES[3][1] and difference[3, 0, 3] == 0
    assert page.overlays(1).keys() == {"a"}
    html = page.render("t", {}, {"cat": (0.25, None)}, 1, "")
    assert "0.250" in html and layers.data_uri(card.difference) in html
