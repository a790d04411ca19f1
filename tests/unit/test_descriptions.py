"""Where descriptions of classes come from: what ships, a file, and a language model behind a local server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.classes import ClassSet
from pipelines.config import LabelConfig, TextConfig, UsageError, parse
from pipelines.descriptions import providers
from pipelines.descriptions.providers import Builtin, DescriptionError, DescriptionFile, Endpoint
from pipelines.text import knowledge

CAT_DOG = ClassSet.load({"classes": [{"name": "cat", "synonyms": ["kitty"]}, {"name": "hot_dog"}]})


class Model(HTTPServer):
    """Answers as told; `replies`: (status, body) in turn, the last for good. Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        status, content = self.server.replies.pop(0) if len(self.server.replies) > 1 else self.server.replies[0]
        reply = content if isinstance(content, bytes) else json.dumps(said(content)).encode()
        self.send_response(status)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: Any) -> None:
        pass


def said(content: str) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}}]}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setattr(providers, "FIRST_PAUSE_S", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Model()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["voc", "camvid", "sample"])
def test_what_ships_describes_every_class_of_the_sets_that_ship(name: str) -> None:
    classes = ClassSet.load(name)
    looks = Builtin().describe(classes)
    assert len(looks) >= len(classes.classes) - (name == "sample") and all(len(texts) == 8 for texts in looks.values())


def test_what_ships_describes_the_clothes_of_ccp(data: Path) -> None:
    names = [name for name in (data / "ccp/labels.txt").read_text().split() if name != "null"]
    assert set(Builtin().describe(ClassSet.load(names))) == set(names)


def test_the_same_word_means_what_its_set_means() -> None:
    street, photographs = (Builtin().describe(ClassSet.load(name))["car"] for name in ("camvid", "voc"))
    assert street != photographs


def test_a_file_names_classes_by_name_or_synonym(tmp_path: Path) -> None:
    path = tmp_path / "looks.yaml"
    path.write_text("Kitty: [soft fur, whiskers]\nhot dog: a sausage in a bun\nunknown: [x]\n")
    looks = DescriptionFile(str(path)).describe(CAT_DOG)
    assert looks == {"cat": ("soft fur", "whiskers"), "hot_dog": ("a sausage in a bun",)}
    for text, told in (("- x", "expected a mapping"), ("cat: [1]", "no list of texts"), ("cat: [", "cannot be read")):
        path.write_text(text)
        with pytest.raises(DescriptionError, match=told):
            DescriptionFile(str(path)).describe(CAT_DOG)
    with pytest.raises(DescriptionError, match="cannot be read"):
        DescriptionFile(str(tmp_path / "none.yaml")).describe(CAT_DOG)


def test_a_model_is_asked_once_with_the_key_of_the_environment(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    cache = tmp_path / "deep/answers.json"
    model.replies = [(200, '```json\n["pointed ears", " soft fur "]\n```'), (200, "1. a bun\n- a sausage\n\n* mustard")]
    ask = Endpoint(model.url, "small", str(cache), "MY_KEY")
    looks = ask.describe(CAT_DOG)
    assert looks == {"cat": ("pointed ears", "soft fur"), "hot_dog": ("a bun", "a sausage", "mustard")}
    assert [(path, key, body["model"]) for path, key, body in model.asked] == [
        ("/v1/chat/completions", "Bearer secret", "small")
    ] * 2
    assert "hot dog" in model.asked[1][2]["messages"][0]["content"]
    assert ask.describe(CAT_DOG) == looks and len(model.asked) == 2
    assert "secret" not in cache.read_text()
    # Only what is new is asked about; another model is another source.
    assert len(ask.describe(ClassSet.load("cat, cow"))) == 2 and len(model.asked) == 3
    Endpoint(model.url, "large", str(cache)).describe(ClassSet.load("cat"))
    assert len(model.asked) == 4 and model.asked[3][1] is None


def test_a_key_is_sent_without_what_surrounds_it_and_never_shown(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Endpoint(model.url, "small", str(tmp_path / "answers.json"), "MY_KEY", retries=0)
    model.replies = [(200, '["ears"]')]
    monkeypatch.setenv("MY_KEY", " sk-secret\r\n")
    ask.describe(ClassSet.load("cat"))
    assert model.asked[0][1] == "Bearer sk-secret"
    for key in ("sk-secret\nX-More: 1", "sk-\x07secret", "sk-secret\u2026"):
        monkeypatch.setenv("MY_KEY", key)
        with pytest.raises(DescriptionError, match=r"\$MY_KEY") as told:
            ask.describe(CAT_DOG)
        assert "secret" not in str(told.value) and told.value.__context__ is None
    assert len(model.asked) == 1


def test_a_model_that_is_busy_is_asked_again_and_one_that_refuses_is_not(model: Model, tmp_path: Path) -> None:
    cache = tmp_path / "answers.json"
    model.replies = [(503, b"busy"), (429, b"later"), (200, '["ears"]')]
    assert Endpoint(model.url, "m", str(cache)).describe(ClassSet.load("cat")) == {"cat": ("ears",)}
    cache.unlink()
    model.asked.clear()
    model.replies = [(401, b"who are you")]
    with pytest.raises(DescriptionError, match=r"HTTP 401.*\$NO_SUCH_KEY"):
        Endpoint(model.url, "m", str(cache), "NO_SUCH_KEY").describe(ClassSet.load("cat"))
    assert len(model.asked) == 1 and not cache.exists()
    model.replies = [(302, b"")]
    with pytest.raises(DescriptionError, match="HTTP 302"):
        Endpoint(model.url, "m", str(cache)).describe(ClassSet.load("cat"))
    assert len(model.asked) == 2
    model.replies = [(500, b"")]
    with pytest.raises(DescriptionError, match="HTTP 500"):
        Endpoint(model.url, "m", str(cache), retries=2).describe(ClassSet.load("cat"))
    assert len(model.asked) == 5


@pytest.mark.parametrize("reply", [b"no json", b"{}", b'{"choices": []}', "", "[]", "[1, 2]"])
def test_an_answer_that_cannot_be_read_is_told(model: Model, tmp_path: Path, reply: Any) -> None:
    model.replies = [(200, reply)]
    with pytest.raises(DescriptionError, match="no answer about 'cat'"):
        Endpoint(model.url, "m", str(tmp_path / "a.json")).describe(ClassSet.load("cat"))


def test_what_was_answered_before_a_failure_is_kept(model: Model, tmp_path: Path) -> None:
    model.replies = [(200, '["ears"]'), (400, b"")]
    ask = Endpoint(model.url, "m", str(tmp_path / "a.json"))
    with pytest.raises(DescriptionError):
        ask.describe(CAT_DOG)
    model.replies = [(200, '["bun"]')]
    assert ask.describe(CAT_DOG) == {"cat": ("ears",), "hot_dog": ("bun",)} and len(model.asked) == 3


def test_a_dry_run_asks_nobody_and_leaves_nothing(model: Model, tmp_path: Path) -> None:
    told = TextConfig(descriptions=model.url, model="m")
    answers = tmp_path / "answers.json"
    before = knowledge(told, CAT_DOG, str(answers), ask=False)
    assert before.descriptions == {} and before.digest and not model.asked and not answers.exists()
    model.replies = [(200, '["ears"]')]
    asked = knowledge(told, CAT_DOG, str(answers))
    assert asked.digest != before.digest
    assert knowledge(told, CAT_DOG, str(answers), ask=False) == asked and len(model.asked) == 2


def test_what_cannot_be_used_is_told_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stops(*flags: str) -> str:
        with pytest.raises(SystemExit):
            parse(LabelConfig, ["--corpus", "x", "--output", "y", *flags], {})
        return capsys.readouterr().err

    assert "needs a name: --text.model" in stops("--text.descriptions", "http://localhost:1/v1")
    password = "http://me:secret@localhost:1/v1"
    assert "key_variable" in stops("--text.descriptions", password, "--text.model", "m")
    with pytest.raises(UsageError, match="describes none of zebra"):
        knowledge(TextConfig(descriptions="builtin"), ClassSet.load("zebra"), "unused")
    assert TextConfig(descriptions="none") == TextConfig()
    assert not TextConfig(descriptions="https://host/looks.yaml").is_endpoint


def test_descriptions_come_in_the_order_of_the_classes() -> None:
    classes = ClassSet.load("voc")
    assert list(Builtin().describe(classes)) == classes.names
