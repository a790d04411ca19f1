"""What the labels that are there were made with."""

import pyarrow.compute as pc
import yaml

from pipelines import storage
from pipelines.classes import ClassSet
from pipelines.migrations import check_change
from pipelines.tables.labels import LabelTable
from pipelines.tables.newest import open_files

# Where a commit says with which class set its labels were decided.
CLASS_SET = "class_set"


def last_classes(labels: LabelTable, output: str) -> ClassSet | None:
    """The class set of the run that published the newest labels; None where there are none, or its folder is gone."""
    delta = labels.open()
    if delta is None:
        return None
    said = delta.history(1)[0]
    # Rollbacks, and files that were rewritten, do not say it. Run ids begin with the time.
    last = said.get("run_id") if CLASS_SET in said else _newest_run(labels)
    return None if last is None else run_classes(output, last)


def _newest_run(labels: LabelTable) -> str | None:
    dataset = open_files(labels.schema, labels.files())
    return None if dataset is None else pc.max(dataset.to_table(columns=["run_id"])["run_id"]).as_py()


def run_classes(output: str, run_id: str) -> ClassSet | None:
    """The class set of a run; None where its folder is gone."""
    address = storage.join(output, "runs", run_id, "classes.yaml")
    return ClassSet.from_dict(yaml.safe_load(storage.read_bytes(address))) if storage.exists(address) else None


def check_classes(labels: LabelTable, output: str, classes: ClassSet) -> None:
    """Raises ClassSetError where a class of the newest labels has no clear place in the class set."""
    before = last_classes(labels, output)
    if before is not None and before.digest != classes.digest:
        check_change(before, classes)
