"""The report without a browser: what is chosen, what is embedded, what is escaped."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from report_scene import CLASSES, EVIL, item, items, report_data

from pipelines.report import layers
from pipelines.report.data import ReportItem, Totals
from pipelines.report.page import ReportBuilder, build_report, weak_in_words
from pipelines.report.select import MAX_IMAGES, Selection


def picture(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


class Page(HTMLParser):
    """Counts elements, and keeps every attribute and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_names_with_markup_stay_text() -> None:
    page = Page(build_report(report_data(7)))
    assert [tag for tag, _ in page.tags].count("script") == 2  # the lookup table and the page's own script
    handlers = [(tag, name) for tag, attrs in page.tags for name in attrs if name.startswith("on")]
    assert handlers == []
    cards = [attrs for tag, attrs in page.tags if tag == "li" and attrs.get("class") == "card"]
    assert f"photos/{EVIL}.jpg" in [attrs["data-asset"] for attrs in cards]
    assert f"corpus: {EVIL}\nlimit: null\n" in "".join(page.texts)


def test_nothing_is_fetched_and_only_the_own_script_may_run() -> None:
    html = build_report(report_data(7))
    page = Page(html)
    addresses = [attrs[name] or "" for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert len(addresses) == 7 * 4 + 1
    assert all(address.startswith("data:") for address in addresses)
    assert set(re.findall(r"url\((.{5})", html)) == {"data:"}
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    script = html.rsplit("<script>", 1)[1].rsplit("</script>", 1)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_page_is_bounded_and_counts_all() -> None:
    html = build_report(report_data(100, images=9))
    assert html.count('class="card"') == 9
    assert html.count("least confident</span>") == 3
    assert "9</output> of 100" in html
    assert len(html) < 250_000
    assert Selection(10**9).images == MAX_IMAGES


def test_the_selection_depends_on_the_images_not_on_their_order() -> None:
    confidences = {f"{n}.jpg": (n * 7919 % 1000) / 1000 for n in range(500)}
    chosen = []
    for names in (list(confidences), list(reversed(confidences))):
        selection: Selection[str] = Selection(30)
        for name in names:
            if selection.wants(name, confidences[name]):
                selection.add(name, confidences[name], name)
        chosen.append(sorted(selection.chosen()))
    assert chosen[0] == chosen[1]
    assert len({name for name, _ in chosen[0]}) == 30
    doubtful = {name for name, flag in chosen[0] if flag}
    assert doubtful == set(sorted(confidences, key=lambda name: confidences[name])[:10])


def test_unwanted_images_are_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    real = layers.photo_jpeg
    monkeypatch.setattr(layers, "photo_jpeg", lambda guide: encoded.append(1) or real(guide))
    builder = ReportBuilder(CLASSES, images=3)
    for one in items(60):
        builder.add(one)
    assert len(builder.cards()) == 3
    assert len(encoded) < 30  # about 4 (1 + ln 60/4) of 60


def test_class_layer_shows_classes_and_lets_the_background_through() -> None:
    class_map = np.array([[0, 300], [7, 999]], np.uint16)
    seen = picture(layers.class_png(class_map, {0: (9, 9, 9), 300: (255, 0, 0), 7: (0, 0, 255)}, clear=0))
    assert seen[0, 0, 3] == 0
    assert seen[0, 1].tolist() == [255, 0, 0, 255]
    assert seen[1, 0].tolist() == [0, 0, 255, 255]
    assert seen[1, 1].tolist() == [128, 128, 128, 255]
    opaque = picture(layers.class_png(class_map, {0: (9, 9, 9)}, clear=None))
    assert opaque[0, 0].tolist() == [9, 9, 9, 255]


def test_class_layer_holds_more_classes_than_a_palette() -> None:
    class_map = np.arange(20 * 20).reshape(20, 20)
    colors = {i: (i % 256, i // 256, 5) for i in range(400)}
    seen = picture(layers.class_png(class_map, colors, clear=3))
    assert (seen[..., 0].astype(int) + 256 * seen[..., 1].astype(int)).tolist() == class_map.tolist()
    assert (seen[..., 3] == 0).sum() == 1


def test_unsure_layer_covers_what_the_policy_does_not_keep() -> None:
    confidence = np.array([[0, 127, 128, 255]], np.uint8)
    assert (picture(layers.unsure_png(confidence, 128 / 255))[0, :, 3] > 0).tolist() == [True, True, False, False]
    assert (picture(layers.unsure_png(confidence, float(np.float32(128 / 255))))[0, :, 3] > 0).sum() == 2


def test_large_and_thin_images_are_reduced_not_lost() -> None:
    big = np.zeros((4000, 1000), np.uint8)
    big[:2000] = 1
    seen = picture(layers.class_png(big, {0: (0, 0, 0), 1: (255, 0, 0)}, clear=0))
    assert seen.shape[:2] == (384, 96)
    assert (seen[..., 3] > 0).mean() == pytest.approx(0.5)
    thin = item("thin.png", 1, size=(200, 1))
    html = build_report(report_data(0)).count('class="card"')
    builder = ReportBuilder(CLASSES)
    builder.add(ReportItem(**{**vars(thin), "class_map": np.ones((200, 1), np.uint8)}))
    assert html == 0
    assert len(builder.cards()) == 1


def test_equal_class_colours_are_told_apart() -> None:
    colors = layers.distinct([(1, 2, 3)] * 5 + [(4, 5, 6)])
    assert len(set(colors)) == 6
    assert colors[0] == (1, 2, 3)
    assert colors[5] == (4, 5, 6)


def test_totals_add_up() -> None:
    totals = Totals()
    totals.count({0: 0.75, 1: 0.25}, {1: 0.2}, 0.8, 0.99, np.array([[0, 255]], np.uint8))
    totals.count({0: 1.0, 1: 0.0}, None, 0.6, 1.0)
    assert totals.images == 2
    assert totals.area == {0: 1.75, 1: 0.25}
    assert totals.images_with == {0: 2, 1: 1}
    assert totals.image_bins.tolist() == [0] * 19 + [2]
    assert totals.pixel_bins.tolist() == [1] + [0] * 18 + [1]


def test_weak_labels_in_words() -> None:
    assert weak_in_words(item("a", 1).weak) == "tags: cat; 1 box"
    assert weak_in_words("{}") == ""
    assert weak_in_words("{not json") == "{not json"


def test_overlays_blend_label_and_photograph() -> None:
    builder = ReportBuilder(CLASSES)
    one = item("a.jpg", 1)
    builder.add(one)
    (overlay,) = builder.overlays(3).values()
    blended = picture(overlay)[..., :3].astype(float)
    photo = picture(builder.cards()[0][0].photo)[..., :3].astype(float)
    inside = one.class_map == 1
    assert np.abs(blended[~inside] - photo[~inside]).max() == 0
    assert np.abs(blended[inside] - (0.45 * photo[inside] + 0.55 * np.array([64, 0, 0]))).max() < 3
