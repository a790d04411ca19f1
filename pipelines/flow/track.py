"""What MLflow is told of a labeling run."""

from collections.abc import Mapping
from typing import Any

from pipelines.flow.progress import say
from pipelines.flow.run import Run
from pipelines.tracking import Tracker


def track(
    run: Run,
    details: Mapping[str, Any],
    pages: Mapping[str, str],
    overlays: Mapping[str, bytes],
    tags: Mapping[str, object],
) -> None:
    """Log a finished run: config, digests, numbers, pages by name, sample overlays and the published snapshot."""
    settings = run.config.tracking
    name = settings.experiment or run.config.corpus
    with Tracker(
        name, run.run_id, run.output, run.folder, uri=settings.uri, parent=settings.parent, say=say
    ) as tracker:
        tracker.params(run.config.model_dump(mode="json"))
        tracker.tags(
            {
                "job": "label_corpus",
                "corpus": run.config.corpus,
                "output": run.output,
                "observe_id": run.observe_id,
                "decide_digest": run.decide_digest,
                "class_set_digest": run.classes.digest,
                **{f"model.{name}": digest for name, digest in run.model_digests.items()},
                **tags,
            }
        )
        tracker.metrics(details)
        for page, content in pages.items():
            tracker.text(content, page)
        tracker.pictures(overlays)
        tracker.snapshot(run.labels.url, details["snapshot"], f"labels of {run.config.corpus}")
