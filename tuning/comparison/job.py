"""A comparison from the command to what is written: open, count, tell, write, track."""

import json
from datetime import UTC, datetime
from typing import Any

import yaml

from pipelines import storage
from pipelines.evaluation.config import ELSEWHERE
from pipelines.flow.progress import say
from pipelines.tracking import Tracker
from tuning.comparison.config import CompareConfig
from tuning.comparison.page import build_page, title
from tuning.comparison.result import Result, make
from tuning.comparison.sides import Side, open_sides
from tuning.comparison.terminal import describe


def compare(config: CompareConfig) -> dict[str, Any]:
    """Compare, tell the person and MLflow; what the last line of stdout says. Raises UsageError, ValueError."""
    sides = open_sides(config)
    result = make(config, sides)
    name = f"compare-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    output = next((side.output for side in sides if side.output), storage.absolute(ELSEWHERE))
    page = storage.absolute(config.page or storage.join(output, "comparisons", name, "compare.html"))
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    html = build_page(result, settings)
    numbers = result.as_json()
    beside = page.removesuffix(".html") + ".json"
    storage.write_bytes(page, html.encode())
    storage.write_bytes(beside, json.dumps(numbers, indent=2, ensure_ascii=False).encode())
    say(describe(result, config.rows))
    _track(config, sides, result, (name, output), html, numbers)
    say(f"page     {page}")
    return _summary(result, numbers, page, beside)


def _summary(result: Result, numbers: dict[str, Any], page: str, beside: str) -> dict[str, Any]:
    flows = numbers["flows"]
    return {
        "page": page,
        "numbers": beside,
        "groups": [
            {"name": one.name, "runs": [result.sides[n].reference for n in one.members]} for one in result.groups
        ],
        "settings": list(numbers["settings"]),
        "images": flows[0]["images"] if flows else 0,
        "changed_pixels": [flow["changed_pixels"] for flow in flows],
        "metrics": {
            row.name: [None if cell is None else round(cell.mean, 5) for cell in row.cells]
            for table in result.tables[:1]
            for row in table.rows
        },
    }


def _track(
    config: CompareConfig,
    sides: list[Side],
    result: Result,
    where: tuple[str, str],
    html: str,
    numbers: dict[str, Any],
) -> None:
    """The page as an artifact of a run beside the runs that it is about."""
    told, (name, output) = config.tracking, where
    experiment = told.experiment or next((side.experiment for side in sides if side.experiment), "comparisons")
    folder = storage.join(output, "comparisons", name)
    with Tracker(
        experiment, name, output, folder, uri=told.uri, enabled=told.enabled, parent=told.parent, say=say
    ) as tracker:
        tracker.params(config.model_dump(mode="json"))
        tracker.tags({"job": "compare", "compared": title(result)})
        tracker.text(html, "compare.html")
        tracker.text(json.dumps(numbers, indent=2, ensure_ascii=False), "compare.json")
