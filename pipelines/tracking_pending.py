"""What MLflow could not be told, kept in the output of the run, and told later."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

from pipelines import storage
from pipelines.tracking_names import artifacts_of
from pipelines.tracking_store import About, Operation, RunWriter, is_refusal

FOLDER = "mlflow-pending"
ABOUT, OPERATIONS = "about.json", "operations.jsonl"
#: Folders of an output that are large and hold no run; a job's own output may be called so too.
SKIPPED = frozenset({"evidence", "labels", "manifest", "quarantine", "checkpoints", "student", "mlartifacts"})
DEPTH = 4


def save(folder: str, about: About, operations: list[Operation]) -> str:
    """Keep a run in `folder`/mlflow-pending; returns that address. Raises OSError where nothing can be written."""
    address = storage.join(folder, FOLDER)
    lines = []
    for number, operation in enumerate(operations):
        line = {"kind": operation.kind, "values": dict(operation.values)}
        if operation.content is not None:
            line["content"] = f"{number:05d}.bin"
            storage.write_bytes(storage.join(address, str(line["content"])), operation.content)
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    storage.write_bytes(storage.join(address, OPERATIONS), "".join(lines).encode())
    # Last: what has it is whole.
    storage.write_bytes(storage.join(address, ABOUT), json.dumps(asdict(about), indent=2).encode())
    return address


def load(address: str) -> tuple[About, list[Operation]]:
    """What `save` kept. Raises FileNotFoundError where there is nothing."""
    about = About(**json.loads(storage.read_bytes(storage.join(address, ABOUT))))
    operations = []
    for line in storage.read_bytes(storage.join(address, OPERATIONS)).decode().splitlines():
        told = json.loads(line)
        content = storage.read_bytes(storage.join(address, told["content"])) if "content" in told else None
        operations.append(Operation(told["kind"], told["values"], content))
    return about, operations


def change(address: str, what: Callable[[Operation], Operation | None]) -> None:
    """Put what `what` makes of every operation in its place; None drops it. What is kept stays whole at every moment,
    so contents keep their files' names; files that no operation names go."""
    old = [json.loads(line) for line in storage.read_bytes(storage.join(address, OPERATIONS)).splitlines()]
    pairs = [(told, what(operation)) for told, operation in zip(old, load(address)[1], strict=True)]
    lines, contents = [], {}
    for told, operation in pairs:
        if operation is not None:
            told = {**told, "kind": operation.kind, "values": dict(operation.values)}
            lines.append(json.dumps(told, ensure_ascii=False) + "\n")
            if operation.content is not None:
                contents[told["content"]] = operation.content
    _write(storage.join(address, OPERATIONS), "".join(lines).encode())
    for name, content in contents.items():
        _write(storage.join(address, name), content)
    for path in set(storage.tree(address)) - {ABOUT, OPERATIONS, *contents}:
        storage.remove(storage.join(address, path))


def _write(address: str, data: bytes) -> None:
    if storage.read_bytes(address) != data:
        storage.write_bytes(address, data)


def remove(address: str) -> None:
    """Drop what was kept, the file that makes it whole first."""
    fs, path = storage.filesystem(address)
    if fs.exists(path):
        storage.remove(storage.join(address, ABOUT))
        fs.rm(path, recursive=True)


def find(output: str) -> Iterator[str]:
    """Addresses of all that is kept in a folder or URL and the folders in it."""
    fs, path = storage.filesystem(output)
    scheme = output.split("://", 1)[0] + "://" if "://" in output else ""

    def walk(folder: str, depth: int) -> Iterator[str]:
        for entry in sorted(fs.ls(folder, detail=True), key=lambda one: str(one["name"])):
            name = str(entry["name"]).rstrip("/")
            last = name.rpartition("/")[2]
            if entry["type"] != "directory":
                continue
            kept = name if last == FOLDER else f"{name}/{FOLDER}" if last in SKIPPED else ""
            if kept:
                if fs.exists(f"{kept}/{ABOUT}"):
                    yield scheme + kept
            elif depth:
                yield from walk(name, depth - 1)

    if fs.isdir(path):
        yield from walk(path, DEPTH)


def upload(address: str, tracking_uri: str) -> tuple[str, list[str]]:
    """Tell MLflow at `tracking_uri` a run that was kept, and drop it here; (its run id, refused operations).

    Repeated, after whatever interruption, it changes nothing that is there already. MLflow's errors pass through.
    """
    about, operations = load(address)
    status = "KILLED" if about.status == "RUNNING" else about.status
    about = About(**{**asdict(about), "status": status})
    run = RunWriter(about, tracking_uri, artifacts_of(tracking_uri))
    refused = []
    for operation in operations:
        try:
            run.apply(operation)
        except Exception as error:
            if not is_refusal(error):
                raise
            refused.append(f"{operation.kind}: {error}")
    run.close()
    remove(address)
    return run.run_id, refused
