"""Pages in a headless Chromium."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api")

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip


class Tab:
    """The open page, and all that it complained about or asked for."""

    def __init__(self, page: "playwright.Page", address: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(address)
        # Fades would make two pictures of the same state differ.
        page.emulate_media(reduced_motion="reduce")

    def frame(self, number: int = 1) -> np.ndarray:
        """Pixels of one photograph as it is on the screen, float [h, w, 3]."""
        png = self.page.locator(".card:visible .frame").nth(number).screenshot()
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)

    def layer(self) -> str | None:
        return self.page.locator("[data-set-layer][aria-pressed=true]").get_attribute("data-set-layer")


@contextmanager
def launched(chromium: str) -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: "playwright.Browser", address: str) -> Iterator[Tab]:
    """The page in a window of its own; it must complain about nothing and ask no server for anything."""
    context = browser.new_context(viewport={"width": 1300, "height": 1200}, offline=True)
    tab = Tab(context.new_page(), address)
    yield tab
    context.close()
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
