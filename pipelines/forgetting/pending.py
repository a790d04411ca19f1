"""What MLflow could not be told yet, without the image: it would be told when it is back."""

import json
import re
from collections.abc import Callable

from pipelines import tracking_pending
from pipelines.forgetting import files
from pipelines.forgetting.names import Names
from pipelines.tracking_names import picture_stem
from pipelines.tracking_store import Operation

_PICTURE = re.compile(r"\d+_(.*)\.png")


def clean(address: str, names: Names, apply: Callable[[], None] | None) -> int:
    """How many operations that are kept at `address` are about the image; with `apply`, which is called first, they go
    or change. What was not kept whole can never be told, so all of it goes."""
    try:
        _, operations = tracking_pending.load(address)
    except (OSError, ValueError, KeyError, TypeError):
        if apply:
            apply()
            tracking_pending.remove(address)
        return 1
    found = sum(_without(operation, names) != operation for operation in operations)
    if apply:
        # Also where nothing is found: a killed run may have left pictures that no operation names any more.
        apply()
        tracking_pending.change(address, lambda operation: _without(operation, names))
    return found


def _without(operation: Operation, names: Names) -> Operation | None:
    """The operation without the image; None for one that is about nothing else."""
    content, name = operation.content, str(operation.values.get("name", ""))
    if operation.kind == "file" and content is not None:
        picture = _PICTURE.fullmatch(name.rpartition("/")[2])
        if picture and picture[1] in {picture_stem(asset) for asset in names.assets}:
            return None
        if files.mentions(name, content, names):
            cleaner = files.cleaner(name)
            if cleaner is None:
                return None
            content = cleaner(content, names)
    before = json.dumps(operation.values, ensure_ascii=False).encode()
    after = files.clean_json(before, names)
    values = operation.values if after == before else json.loads(after)
    return Operation(operation.kind, values, content)
