"""What MLflow is told of a labeling run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipelines.flow.progress import say
from pipelines.flow.run import Run
from pipelines.tracking import Tracker

OVERLAYS = 8


@contextmanager
def tracked(run: Run) -> Iterator[Tracker]:
    """The run in MLflow, from its beginning: its settings, and where they lead."""
    settings, name = run.config.tracking, run.config.tracking.experiment or run.config.corpus
    tracker = Tracker(
        name, run.run_id, run.output, run.folder, settings.uri, settings.enabled, settings.parent, say=say
    )
    with tracker:
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
            }
        )
        yield tracker


def track(
    tracker: Tracker,
    run: Run,
    details: Mapping[str, Any],
    pages: Mapping[str, str],
    overlays: Callable[[int], Mapping[str, bytes]] | None,
    tags: Mapping[str, object],
) -> None:
    """What came of it: numbers, pages by name, sample overlays, the images and the published snapshot."""
    if not tracker.enabled:
        say("tracking is off (tracking.enabled)")
        return
    tracker.tags(tags)
    tracker.metrics(details)
    for page, content in pages.items():
        tracker.text(content, page)
    if overlays is not None:
        tracker.pictures(overlays(OVERLAYS))
    corpus = run.config.corpus
    tracker.dataset(run.corpus or corpus, f"manifest-{run.manifest.version()}", f"images of {corpus}", "images")
    tracker.snapshot(run.labels.url, details["snapshot"], f"labels of {corpus}")
