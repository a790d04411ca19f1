"""The page of the worst images in a browser."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsing import Tab, launched, opened
from report_scene import EVIL

from pipelines.report.worst import JudgedItem, WorstPage

playwright = pytest.importorskip("playwright.sync_api")

SIZE = (120, 160)


def judged(name: str, iou: float) -> JudgedItem:
    """Left half: gold says cat; upper half: the model says cat; the last row was not judged."""
    gold, found = np.zeros(SIZE, np.int32), np.zeros(SIZE, np.int32)
    gold[:, : SIZE[1] // 2] = 1
    gold[-1] = -1
    found[: SIZE[0] // 2] = 1
    photo = np.random.default_rng(len(name)).integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    confidence = np.tile(np.linspace(0, 1, SIZE[1], dtype=np.float32), (SIZE[0], 1))
    return JudgedItem(name, photo, gold, found, confidence, iou, {0: iou, 1: iou})


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    page = WorstPage([("background", (0, 0, 0)), (EVIL, (64, 0, 0)), ("dog", (64, 0, 128))], 0, 3)
    for number, iou in enumerate((0.9, 0.2, 0.5, 0.1)):
        page.add(judged(f"photos/{EVIL}-{number}", iou))
    html = page.render(EVIL, {"miou": 0.5}, {"cat": (0.5, 0.25), "dog": (None, None)}, 4, "model: out")
    path = tmp_path_factory.mktemp("worst") / "worst.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def tab(chromium: str, address: str) -> Iterator[Tab]:
    with launched(chromium) as browser, opened(browser, address) as tab:
        yield tab


def test_worst_first_and_every_layer_differs(tab: Tab) -> None:
    ious = [float(card.get_attribute("data-iou") or 9) for card in tab.page.locator(".card").all()]
    assert ious == [0.1, 0.2, 0.5]
    assert tab.page.locator("h1").inner_text() == EVIL
    assert tab.page.locator(".bars li").count() == 1
    assert tab.layer() == "difference"
    frames = {"difference": tab.frame()}
    for key, name in (("i", "image"), ("g", "gold"), ("l", "label"), ("c", "confidence")):
        tab.page.keyboard.press(key)
        assert tab.layer() == name
        frames[name] = tab.frame()
    for first, second in ((a, b) for a in frames for b in frames if a < b):
        assert (np.abs(frames[first] - frames[second]).max(-1) > 12).mean() > 0.1, (first, second)


def test_ordering_and_the_pixel_under_the_pointer(tab: Tab, tmp_path: Path) -> None:
    tab.page.locator("#order").select_option("name")
    names = [card.get_attribute("data-asset") for card in tab.page.locator(".card").all()]
    assert names == sorted(names)
    tab.page.locator("#order").select_option("worst")
    tab.page.locator(".card .frame").first.click()
    assert "IoU 0.100" in tab.page.locator("#facts").inner_text()
    box = tab.page.locator("#viewer-frame .stack").bounding_box()
    assert box is not None

    def told(x: float, y: float) -> str:
        tab.page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        return tab.page.locator("#under").inner_text()

    assert told(0.2, 0.2).startswith(f"gold: {EVIL} · {EVIL} · ")
    assert told(0.2, 0.8).endswith("missed object")
    assert told(0.8, 0.2).endswith("object where background is")
    assert told(0.8, 0.8).startswith("gold: background · background · ") and told(0.8, 0.8).endswith("% sure")
    assert told(0.2, 0.999).startswith("gold: not judged · ")
