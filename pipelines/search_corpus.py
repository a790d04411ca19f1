"""Look into a corpus: the images that are nearest to a text, or to another image, by CLIP.

    python pipelines/search_corpus.py --labels out/photos --text "a cat on a sofa"
    python pipelines/search_corpus.py --labels out/photos --like 2024/jane.jpg --images 50

What is searched is an index of the stored evidence of all published images (OUTPUT/learned/index, half a gigabyte a
million): it is made by the first search, and what is new is added by the next one; no model sees an image. The
references of decide.reference_weight are found through the same index.

The images come on stderr, the nearest first, with their cosine; the last line on stdout is one JSON object that lists
them with their addresses. Exit codes: 0 done; 1 failed; 2 bad usage; 5 the index lacks images, and another run is at
work on the output; 130 and 143 stopped by SIGINT and SIGTERM (the same command goes on).
"""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field

from pipelines.config import LockConfig, Section, UsageError, parse
from pipelines.flow.progress import say
from pipelines.flow.results import end_ray, keep_stdout_for_results
from pipelines.flow.stop import Interrupted, RunFailed, stop_on_signals

EXIT_FAILED, EXIT_USAGE, EXIT_HELD = 1, 2, 5


class SearchExecutionConfig(Section):
    """where the index is made; changes no answer"""

    object_store_mb: int = Field(default=512, ge=80, description="Ray's shared memory while it is made, MB")
    progress_seconds: float = Field(default=5.0, ge=0.1, description="time between progress lines, seconds")
    ray_address: str = Field(
        default="", description="an existing Ray cluster (auto, or ray://host:port); default: start one"
    )


class SearchConfig(Section):
    """Everything that `search_corpus.py` can be told."""

    labels: str = Field(description="the output folder or URL of label_corpus.py")
    text: str | None = Field(default=None, description="what to look for, in words")
    like: str | None = Field(
        default=None, description="an image of the corpus instead, by its path below it, as tables name it"
    )
    images: int = Field(default=10, ge=1, le=10_000, description="how many are told")
    index: str | None = Field(
        default=None,
        description="folder or URL that keeps the index instead of LABELS, where that is read-only",
    )
    execution: SearchExecutionConfig = SearchExecutionConfig()
    lock: LockConfig = LockConfig()


def search(config: SearchConfig) -> dict[str, Any]:
    """Find the images; what the last line of stdout says. Raises UsageError, RunFailed, Held."""
    from pipelines import storage
    from pipelines.evaluation.runs import PastRun
    from pipelines.execution import start_ray
    from pipelines.flow import indexing
    from pipelines.lock import only_run
    from pipelines.tables.labels import LabelTable

    if (config.text is None) == (config.like is None):
        raise UsageError("--text or --like: say what to look for, with one of them")
    output = storage.absolute(config.labels)
    columns = ["asset", "uri", "evidence_key", "run_id"]
    batches = LabelTable(storage.join(output, "labels")).newest(columns)
    rows = [row for batch in batches for row in batch.to_pylist()]
    if not rows:
        raise UsageError(f"--labels: {output} has no published labels")
    past = PastRun.load(output, max(row["run_id"] for row in rows))
    shards = {row["evidence_key"]: past.shards.get(row["evidence_key"]) for row in rows}
    places = {key: shard for key, shard in shards.items() if shard}
    if not places:
        raise UsageError(f"--labels: the evidence of {output} is gone, or was made by another run")
    if len(places) < len(shards):
        say(f"{len(shards) - len(places):,} images have no evidence of the newest run, and are left out")
    named: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        named.setdefault(row["evidence_key"], []).append(row)
    own = _key_of(config.like, rows, places)
    settings = config.execution
    root = storage.absolute(config.index) if config.index else output
    with ExitStack() as stack:

        def prepare() -> None:
            if config.index is None:
                stack.enter_context(only_run(output, config.lock))
            start_ray(settings.ray_address, settings.object_store_mb)
            stop_on_signals()  # Ray puts handlers of its own in the place of ours

        index = stack.enter_context(
            indexing.opened(root, past.store, places, past.shards.keys(), settings.progress_seconds, prepare)
        )
        asked = _embedded(config, past) if own is None else _stored(past, places[own], own)
        # One more, as an image is most like itself. What the index has of older contents is not asked for.
        keys, cosines = index.query(asked[None], config.images + 1, among=places)
    pairs = zip(keys[0].tolist(), cosines[0].tolist(), strict=True)
    found = [
        {"asset": row["asset"], "uri": row["uri"], "cosine": round(cosine, 4)}
        for key, cosine in pairs
        for row in named[key]
        if row["asset"] != config.like
    ][: config.images]
    for one in found:
        say(f"{one['cosine']:.4f}  {one['asset']}")
    return {"images": len(rows), "indexed": len(index), "found": found}


def _key_of(asset: str | None, rows: Sequence[dict[str, Any]], places: dict[str, str]) -> str | None:
    if asset is None:
        return None
    key = next((str(row["evidence_key"]) for row in rows if row["asset"] == asset), None)
    if key is None:
        import difflib

        close = difflib.get_close_matches(asset, [row["asset"] for row in rows], 1, 0.5)
        hint = f"; did you mean {close[0]}?" if close else f" (one is {rows[0]['asset']})"
        raise UsageError(f"--like: no published image is called {asset!r}{hint}")
    if key not in places:
        raise UsageError(f"--like: the evidence of {asset} is gone; label the corpus again")
    return key


def _embedded(config: SearchConfig, past: Any) -> Any:
    """The text, float32 [D], by the CLIP that saw the images."""
    from models.clip.text import TextEncoder
    from pipelines.references import ModelReferenceError, resolve

    reference = past.config.observe.clip.model
    try:
        clip = resolve(reference)
    except ModelReferenceError as error:
        raise UsageError(str(error)) from error
    if clip.digest != past.clip_digest:
        raise UsageError(f"--text: {reference} is not the model any more that saw the images; --like works without it")
    return TextEncoder(clip.path, "cpu").encode([config.text or ""])[0]


def _stored(past: Any, shard: str, key: str) -> Any:
    import numpy as np

    for row in past.store.read([(shard, key)], ["embedding"]):
        return np.frombuffer(row["embedding"], "<f4")
    raise RunFailed("its evidence is gone; label the corpus again")


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(SearchConfig, argv, prog="search_corpus.py", description=__doc__ or "")
    stop_on_signals()
    keep_stdout_for_results()
    from pipelines.lock import Held

    try:
        summary = search(config)
    except UsageError as error:
        say(f"error: {error}")
        return EXIT_USAGE
    except Held as error:
        say(f"another run is at work: {error}; --index FOLDER keeps the index elsewhere")
        return EXIT_HELD
    except (RunFailed, OSError) as error:
        say(f"error: {error}")
        return EXIT_FAILED
    except Interrupted as error:
        say(f"stopped by {error}: the same command goes on from here")
        return error.exit_code
    end_ray()
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
