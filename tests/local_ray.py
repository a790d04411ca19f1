"""Ray's part in the labeling job, played by this process: the same stages on the same blocks, one after the other.

For tests of what is decided, published and compared. What Ray itself does is tested in tests/pipeline.
"""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from pipelines.flow import deciding, indexing, job, observing
from pipelines.text import text_bank


class LocalDataset:
    def __init__(self, blocks: Iterator[pa.Table]) -> None:
        self.blocks = blocks

    def map_batches(self, stage: Any, fn_constructor_args: tuple[Any, ...] = (), **options: Any) -> "LocalDataset":
        made = stage(*fn_constructor_args) if isinstance(stage, type) else stage
        return LocalDataset(made(block) for block in self.blocks)

    def iter_batches(self, **options: Any) -> Iterator[pa.RecordBatch]:
        for block in self.blocks:
            yield from block.to_batches()


class LocalActor:
    """`actor.method.remote(...)` calls the method at once."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._value, name)
        return type("Method", (), {"remote": staticmethod(method)})


class Reference:
    """What a task returned, or `put` was given."""

    def __init__(self, value: Any) -> None:
        self.value = value


def get(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(one, Reference) for one in value):
        return [get(one) for one in value]
    return value.value if isinstance(value, Reference) else value


def local_ray() -> ModuleType:
    ray = ModuleType("ray")
    data = ModuleType("ray.data")
    data.from_arrow = lambda blocks: LocalDataset(iter(blocks if isinstance(blocks, list) else [blocks]))  # type: ignore[attr-defined]
    data.ActorPoolStrategy = lambda **options: None  # type: ignore[attr-defined]

    class Remote:
        def __init__(self, made: Any, results: int = 1) -> None:
            self.made, self.results = made, results

        def options(self, **options: Any) -> "Remote":
            return self

        def remote(self, *arguments: Any) -> Any:
            if isinstance(self.made, type):
                return LocalActor(self.made(*arguments))
            found = self.made(*map(get, arguments))
            return Reference(found) if self.results == 1 else tuple(map(Reference, found))

    def remote(made: Any = None, num_returns: int = 1, **options: Any) -> Any:
        return Remote(made) if made is not None else lambda later: Remote(later, num_returns)

    parts = {
        "data": data,
        "remote": remote,
        "get": get,
        "put": Reference,
        "wait": lambda references: (references[:1], references[1:]),
        "kill": lambda actor: None,
        "cluster_resources": lambda: {"CPU": 1.0},
        "is_initialized": lambda: False,
        "shutdown": lambda: None,
    }
    for name, part in parts.items():
        setattr(ray, name, part)
    return ray


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run jobs in this process from here on."""
    monkeypatch.setitem(sys.modules, "ray", local_ray())
    for module in (deciding, indexing, observing):
        monkeypatch.setattr(module, "set_up_data", lambda: None)
    monkeypatch.setattr(job, "_start_ray", lambda config: None)
    monkeypatch.setattr(
        job, "embed_prompts", lambda classes, models, *known: text_bank(models.path(models.clip), classes, *known)
    )
