"""The report in a browser: it renders, what a person can press changes what they see, and nothing complains."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsing import Tab, launched, opened
from PIL import Image
from report_scene import EVIL, report_data

from pipelines.report.page import build_report

playwright = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator["playwright.Browser"]:
    with launched(chromium) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(build_report(report_data(8)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def tab(browser: "playwright.Browser", address: str) -> Iterator[Tab]:
    with opened(browser, address) as tab:
        yield tab


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """Share of pixels that look different."""
    return float((np.abs(before - after).max(-1) > 12).mean())


def test_it_renders(tab: Tab, tmp_path: Path) -> None:
    assert tab.page.locator("h1").inner_text() == f"Labels of {EVIL}"
    assert tab.page.locator(".card").count() == 8
    broken = "[...document.images].filter(image => !image.complete || image.naturalWidth === 0).length"
    assert tab.page.evaluate(broken) == 0
    assert tab.page.locator("tbody tr").count() == 2
    assert tab.page.locator(".bars li").count() == 2
    tab.page.locator("summary").click()
    assert "limit: null" in tab.page.locator("pre").inner_text()
    shot = tmp_path / "report.png"
    tab.page.screenshot(path=shot, full_page=True)
    assert len(np.unique(np.asarray(Image.open(shot).convert("L")))) > 100  # a page with photographs, not a blank one


def test_buttons_and_keys_change_the_layer(tab: Tab) -> None:
    frames = {"label": tab.frame()}
    assert tab.layer() == "label"
    for name in ("image", "confidence", "provenance"):
        tab.page.locator(f"[data-set-layer={name}]").click()
        assert tab.layer() == name
        frames[name] = tab.frame()
    assert 0.15 < changed(frames["image"], frames["label"]) < 0.35  # the class covers a quarter of the photograph
    assert changed(frames["image"], frames["confidence"]) > 0.8
    assert changed(frames["image"], frames["provenance"]) > 0.8
    assert changed(frames["confidence"], frames["provenance"]) > 0.5
    for key, name in (("i", "image"), ("c", "confidence"), ("p", "provenance"), ("l", "label")):
        tab.page.keyboard.press(key)
        assert tab.layer() == name
        assert changed(frames[name], tab.frame()) == 0


def test_opacity_and_hatching(tab: Tab) -> None:
    half = tab.frame()
    slider = tab.page.locator("#opacity")
    slider.fill("0")
    nothing = tab.frame()
    slider.fill("100")
    full = tab.frame()
    middle = (slice(70, 110), slice(100, 150))
    assert np.abs(full[middle] - np.array([64, 0, 0])).max() < 12  # the class's own colour
    blend = 0.4 * nothing[middle] + 0.6 * full[middle]
    assert np.abs(blend - half[middle]).mean() < 6
    tab.page.keyboard.press("k")
    hatched = tab.frame()
    width = hatched.shape[1]
    assert changed(full[:, : width // 4], hatched[:, : width // 4]) > 0.5  # confidence grows from left to right
    assert changed(full[:, -width // 6 :], hatched[:, -width // 6 :]) == 0
    assert tab.page.locator("#kept").get_attribute("aria-pressed") == "true"


def test_filter_and_order(tab: Tab) -> None:
    def confidences() -> list[float]:
        shown = tab.page.locator(".card:visible")
        return [float(shown.nth(n).get_attribute("data-confidence") or "nan") for n in range(shown.count())]

    tab.page.locator("#order").select_option("unsure")
    assert confidences() == sorted(confidences())
    tab.page.locator("#order").select_option("sure")
    assert confidences() == sorted(confidences(), reverse=True)
    tab.page.locator("#class-filter").select_option("7")
    assert len(confidences()) == 3
    assert tab.page.locator("#shown").inner_text() == "3"
    tab.page.locator(".key[data-class='7']").click()
    assert len(confidences()) == 8


def test_enlarging_names_the_pixel_under_the_pointer(tab: Tab) -> None:
    cards = tab.page.locator(".card:visible")
    first = cards.nth(1).get_attribute("data-asset")
    cards.nth(1).locator(".frame").click()
    assert tab.page.locator("#viewer-title").inner_text() == first
    assert "tags: cat; 1 box" in tab.page.locator("#facts").inner_text()
    box = tab.page.locator("#viewer-frame .stack").bounding_box()
    assert box is not None
    tab.page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5)
    assert tab.page.locator("#under").inner_text().startswith("cat · ")
    assert tab.page.locator("#under").inner_text().endswith("% sure · from mask")
    tab.page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + box["height"] * 0.5)
    assert tab.page.locator("#under").inner_text().startswith("background · ")
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.locator("#viewer-title").inner_text() == cards.nth(2).get_attribute("data-asset")
    tab.page.keyboard.press("Escape")
    assert not tab.page.locator("#viewer").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes_and_on_a_phone(
    browser: "playwright.Browser", address: str, scheme: str
) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    ink, paper = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    values = [np.mean([int(part) for part in text[4:-1].split(",")]) for text in (ink, paper)]
    assert abs(values[0] - values[1]) > 150
    assert (values[1] < 60) == (scheme == "dark")
    context.close()
