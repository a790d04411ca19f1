"""Where an image can stand below a folder: tables, what MLflow is still to be told, and single files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipelines import lock, storage, tracking_pending
from pipelines.forgetting import delta
from pipelines.forgetting.memory import FILE

# What is being removed, in clear, while it is being removed: a killed run goes on from here. It is gone at the end.
PENDING = "forgetting.json"


@dataclass(frozen=True)
class Place:
    """A Delta table, a folder of what MLflow could not be told, or a single file below a root. paths: of the files in
    it, below it; none for a single file."""

    root: str
    path: str
    paths: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        return storage.join(self.root, self.path)

    @property
    def kind(self) -> str:
        """What a summary calls it: the first folder below the root."""
        first = self.path.partition("/")[0]
        return first if self.paths or "/" in self.path else PurePosixPath(self.path).suffix.lstrip(".") or first

    @property
    def is_pending(self) -> bool:
        return bool(self.paths) and PurePosixPath(self.path).name == tracking_pending.FOLDER


def places(root: str) -> Iterator[Place]:
    """Everything below a folder; what forgetting itself keeps there is left out. A file in a table's folder that is
    neither data nor log is a single file."""
    own = (FILE, PENDING, lock.NAME, lock.GUARD)
    paths = [path for path in storage.tree(root) if path not in own]
    marker = f"/{delta.LOG}/"
    tables = {path.partition(marker)[0] for path in paths if marker in path}
    waiting = {str(PurePosixPath(path).parent) for path in paths} - tables
    waiting = {folder for folder in waiting if PurePosixPath(folder).name == tracking_pending.FOLDER}
    inside: dict[str, list[str]] = {folder: [] for folder in sorted(tables | waiting)}
    single = []
    for path in paths:
        parents = [str(parent) for parent in PurePosixPath(path).parents]
        owner = next((parent for parent in parents if parent in inside), None)
        below = "" if owner is None else path.removeprefix(owner + "/")
        if owner is None or not (owner in waiting or below.endswith(".parquet") or below.startswith(delta.LOG + "/")):
            single.append(path)
        else:
            inside[owner].append(below)
    yield from (Place(root, folder, tuple(found)) for folder, found in inside.items())
    yield from (Place(root, path) for path in single)
