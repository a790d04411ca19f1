"""HTML pages without the image: its cards, table rows and list entries go, everything else stays."""

from html.parser import HTMLParser

from markupsafe import escape

from pipelines.forgetting.names import Names

# What shows one image. The innermost of these that mentions it goes.
RECORDS = frozenset({"li", "tr", "article", "figure", "option", "details"})
GONE = (
    b'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>Maskstream</title>'
    b"<p>This page showed an image that was forgotten since, in a way that nothing but the whole page could be removed."
    b"</p></html>\n"
)


def clean(data: bytes, names: Names) -> bytes:
    """The page without the image. One that still mentions it afterwards is replaced by a line that says so."""
    text = data.decode("utf-8", "surrogateescape")
    records = _Records(text)
    found = _mentions(text, names)
    cut: list[tuple[int, int]] = []
    for position in found:
        inside = [(start, end) for start, end in records.spans if start <= position < end]
        if inside:
            cut.append(max(inside))
    kept, last = [], 0
    for start, end in sorted(set(cut)):
        if start >= last:
            kept.append(text[last:start])
            last = end
        else:
            last = max(last, end)
    after = "".join([*kept, text[last:]])
    return GONE if _mentions(after, names) else after.encode("utf-8", "surrogateescape")


def mentions(data: bytes, names: Names) -> bool:
    return bool(_mentions(data.decode("utf-8", "surrogateescape"), names))


def _mentions(text: str, names: Names) -> list[int]:
    """Positions of names, and of cards of the image under its name without suffix (as masks are called)."""
    data = text.encode("utf-8", "surrogateescape")
    found = [len(data[:start].decode("utf-8", "surrogateescape")) for start, _ in names.find(data)]
    for name in names.stems | names.assets:
        marker = f'data-asset="{escape(name)}"'
        at = text.find(marker)
        while at >= 0:
            found.append(at)
            at = text.find(marker, at + 1)
    return found


class _Records(HTMLParser):
    """Where the elements of RECORDS begin and end in a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self.spans: list[tuple[int, int]] = []
        self._open: list[tuple[str, int]] = []
        self._lines = [0]
        for line in text.splitlines(keepends=True) if "\r" not in text else text.split("\n"):
            self._lines.append(self._lines[-1] + len(line) + ("\r" in text))
        self._text = text
        self.feed(text)

    def _position(self) -> int:
        line, column = self.getpos()
        return self._lines[line - 1] + column

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in RECORDS:
            self._open.append((tag, self._position()))

    def handle_endtag(self, tag: str) -> None:
        for index in range(len(self._open) - 1, -1, -1):
            if self._open[index][0] == tag:
                end = self._text.find(">", self._position()) + 1
                self.spans.append((self._open[index][1], end))
                del self._open[index:]
                return
