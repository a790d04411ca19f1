"""What the labels that are there were made with."""

import pyarrow.compute as pc
import yaml

from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.migrations import check_change
from pipelines.tables.labels import LabelTable


def last_classes(labels: LabelTable, output: str) -> ClassSet | None:
    """The class set of the run that published the newest labels; None where there are none, or its folder is gone."""
    runs = [storage.read_parquet(file, ["run_id"])["run_id"] for file in labels.files()]
    # Run ids begin with the time.
    last = max((newest for column in runs if (newest := pc.max(column).as_py()) is not None), default=None)
    return None if last is None else run_classes(output, last)


def run_classes(output: str, run_id: str) -> ClassSet | None:
    """The class set of a run; None where its folder is gone."""
    address = storage.join(output, "runs", run_id, "classes.yaml")
    return ClassSet.from_dict(yaml.safe_load(storage.read_bytes(address))) if storage.exists(address) else None


def check_classes(labels: LabelTable, output: str, classes: ClassSet) -> None:
    """Raises ClassSetError where a class of the newest labels has no clear place in the class set."""
    before = last_classes(labels, output)
    if before is not None and before.digest != classes.digest:
        check_change(before, classes)
