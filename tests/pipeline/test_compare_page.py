"""The page of a comparison in a browser: two snapshots of real crops, judged on gold."""

from collections.abc import Iterator

import numpy as np
import pytest
import skimage.data
from browsing import Tab, launched, opened
from PIL import Image
from published import publish, write_gold
from report_scene import EVIL

from pipelines.classes import ClassSet
from tuning import compare

playwright = pytest.importorskip("playwright.sync_api")

HEIGHT, WIDTH = 96, 128
CLASSES = ClassSet.from_dict([{"id": 5, "name": "cat"}, {"id": 2, "name": EVIL}])


def quarters(left: int, right: int) -> list[list[int]]:
    """`left` in the upper left quarter, `right` in the lower right one, background elsewhere."""
    ids = np.zeros((HEIGHT, WIDTH), int)
    ids[: HEIGHT // 2, : WIDTH // 2] = left
    ids[HEIGHT // 2 :, WIDTH // 2 :] = right
    return ids.tolist()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("compared")
    uris = {}
    for number in range(3):
        photo = skimage.data.chelsea()[20 * number :][:HEIGHT, 60 : 60 + WIDTH]
        Image.fromarray(photo).save(folder / f"{number}.png")
        uris[f"{number}.jpg"] = str(folder / f"{number}.png")
    publish(folder / "out", {name: quarters(5, 2) for name in uris}, "r1", CLASSES, uris)
    after = {"0.jpg": quarters(2, 2), "1.jpg": quarters(2, 0), "2.jpg": quarters(5, 2)}
    publish(folder / "out", after, "r2", CLASSES, uris)
    write_gold(folder / "gold", {name.removesuffix(".jpg"): quarters(5, 0) for name in uris})
    page = folder / "page.html"
    code, _ = compare.run([
        f"{folder}/out@1", f"{folder}/out@2", "--gold.uri", f"{folder}/gold", "--page", str(page),
        "--tracking.enabled", "false",
    ])  # fmt: skip
    assert code == 0
    return page.as_uri()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator["playwright.Browser"]:
    with launched(chromium) as browser:
        yield browser


@pytest.fixture
def tab(browser: "playwright.Browser", address: str) -> Iterator[Tab]:
    with opened(browser, address) as tab:
        yield tab


def test_what_differs_is_shown_from_settings_to_pixels(tab: Tab) -> None:
    page = tab.page
    assert page.locator("h1").inner_text() == "out@1 and out@2"
    assert "None that could change a result" in page.locator("main").inner_text()
    assert page.locator(".numbers-table tbody tr", has_text="mIoU").first.locator("td").count() == 2
    assert page.locator(".lines polyline").count() == 2
    assert page.locator(".heat .same").count() == 3
    moves = [row.split("\t")[:2] for row in page.locator(".moves tbody tr").all_inner_texts()]
    assert [[text.strip() for text in row] for row in moves] == [["cat", EVIL], [EVIL, "background"]]
    assert [card.get_attribute("data-asset") for card in page.locator(".card").all()] == ["1.jpg", "0.jpg"]
    frames = {"difference": tab.frame(0)}
    assert tab.layer() == "difference"
    for key, name in (("i", "image"), ("1", "side-0"), ("2", "side-1"), ("g", "gold")):
        page.keyboard.press(key)
        assert tab.layer() == name
        frames[name] = tab.frame(0)
    for first, second in ((a, b) for a in frames for b in frames if a < b):
        assert (np.abs(frames[first] - frames[second]).max(-1) > 12).mean() > 0.1, (first, second)
    page.keyboard.press("k")
    assert (np.abs(frames["gold"] - tab.frame(0)).max(-1) > 12).mean() > 0.4, "what they agree on is hatched"


def test_the_pixel_under_the_pointer(tab: Tab) -> None:
    tab.page.locator(".card .frame").first.click()
    assert "of the pixels differ" in tab.page.locator("#facts").inner_text()
    box = tab.page.locator("#viewer-frame .stack").bounding_box()
    assert box is not None

    def told(x: float, y: float) -> str:
        tab.page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        return tab.page.locator("#under").inner_text()

    assert told(0.2, 0.2) == f"out@1: cat · out@2: {EVIL} · gold: cat · only out@1 is right"
    assert told(0.8, 0.8) == f"out@1: {EVIL} · out@2: background · gold: background · only out@2 is right"
    assert told(0.8, 0.2) == "out@1: background · out@2: background · gold: background"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_no_text_is_cut(browser: "playwright.Browser", address: str, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    inside = """[...document.querySelectorAll(".lines text")].every((text) => {
      const [a, b] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
      return a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1;
    })"""
    assert page.evaluate(inside), "the chart's labels lie inside it"
    context.close()
