"""Segment images with a trained student: one mask an image, a PNG of class ids in the classes' colours.

    python pipelines/predict.py --model out/student --images photos/ --output out/masks
    python pipelines/predict.py --model s3://bucket/student --images voc:VOC2012 --split val --output s3://bucket/masks

    python pipelines/predict.py --model out/student --images photos/ --output out/masks --classes classes.yaml

--classes writes the ids of a class set that came after the student, read through the migrations that it records.
Masks mirror the images' relative paths. Images that cannot be read are listed in OUTPUT/broken.jsonl, with the reason.
The last line on stdout is one JSON object. Exit codes: 0 every readable image has a mask; 1 failed; 2 bad usage; 130
and 143 stopped by SIGINT and SIGTERM.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.students.config import PredictConfig
from pipelines import storage
from pipelines.config import Count, ImagesConfig, Section, UsageError, parse
from pipelines.flow.progress import Progress, say
from pipelines.flow.stop import Interrupted, stop_on_signals

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from models.students.card import StudentCard
    from models.students.predict import Picture, Predictor
    from pipelines.corpus.base import Asset

    Ids = npt.NDArray[np.unsignedinteger]
    Colors = npt.NDArray[np.uint8]

PROGRESS_SECONDS = 5.0
BROKEN_SHOWN = 20  # on stderr; broken.jsonl has them all


class PredictJobConfig(Section):
    """What `predict.py` can be told."""

    model: str = Field(description="the student: the output folder or URL of train_student.py, or models:/NAME@ALIAS")
    images: str = Field(description="where the images are: a folder, an image, or any corpus of label_corpus.py")
    output: str = Field(description="folder or URL for the masks")
    split: str | None = Field(default=None, description="voc: a name in ImageSets/Segmentation, such as train or val")
    classes: str | None = Field(
        default=None,
        description="class set whose ids the masks should have (see label_corpus.py); default: the student's",
    )
    limit: int | None = Field(default=None, ge=1, description="only the first N images")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where the student runs")
    threads: int = Field(default=0, ge=0, le=1024, description="CPU threads of the student; 0: PyTorch's default")
    read_threads: int = Field(default=4, ge=1, le=256, description="images that are read and decoded at once")
    max_pixels: Count = Field(default=200_000_000, ge=1, description="larger images are refused, pixels (200M works)")
    predict: PredictConfig = PredictConfig()


@dataclass
class _Source:
    """The images, as `open_corpus` wants to be asked for them; weak labels are of no use here."""

    corpus: str
    split: str | None
    weak: tuple[str, ...] = ()
    weak_file: str | None = None
    images: ImagesConfig = field(default_factory=ImagesConfig)


class _Reader:
    """(name of the mask, picture, full size) of the images, read and decoded ahead in threads, in the order of the
    listing; what cannot be read goes to `broken`."""

    def __init__(self, assets: Iterator["Asset"], picture_px: int, config: PredictJobConfig) -> None:
        self.assets, self.picture_px, self.config = assets, picture_px, config
        self.taken: set[str] = set()
        self.broken: list[dict[str, str]] = []

    def __iter__(self) -> Iterator[tuple[str, "Picture", tuple[int, int]]]:
        with ThreadPoolExecutor(self.config.read_threads, thread_name_prefix="read") as threads:
            ahead: deque[tuple[Asset, Future[Any]]] = deque()
            for asset in self.assets:
                ahead.append((asset, threads.submit(self._read, asset.uri)))
                if len(ahead) >= 2 * self.config.read_threads:
                    yield from self._take(*ahead.popleft())
            while ahead:
                yield from self._take(*ahead.popleft())

    def _read(self, uri: str) -> Any:
        from pipelines.corpus.read import read_bytes
        from pipelines.stages.decode import decode

        return decode(read_bytes(uri), self.picture_px, self.config.max_pixels)

    def _take(self, asset: "Asset", future: Future[Any]) -> Iterator[tuple[str, "Picture", tuple[int, int]]]:
        from models.students.masks import mask_name
        from pipelines.stages.decode import BadImage

        try:
            picture = future.result()
        except (BadImage, OSError) as error:
            kind = getattr(error, "error", "unreadable")
            self.broken.append({"image": asset.asset, "error": kind, "reason": str(error)})
        else:
            yield mask_name(asset.asset, self.taken), picture.pixels, (picture.height, picture.width)


def predict(config: PredictJobConfig) -> dict[str, Any]:
    """Write the masks. Raises UsageError for what cannot be used."""
    from models.students.masks import mask_png
    from pipelines.corpus.base import CorpusError
    from pipelines.corpus.open import open_corpus

    predictor, digest = _load(config)
    try:
        # Listed twice: streaming keeps memory flat, and a count makes an estimate of the time left.
        total = sum(1 for _ in _assets(open_corpus(_Source(config.images, config.split)), config))
        corpus = open_corpus(_Source(config.images, config.split))
    except CorpusError as error:
        raise UsageError(f"--images: {error}") from error
    output = storage.absolute(config.output)
    translation, colors = _ids(predictor.card, config)
    reader = _Reader(_assets(corpus, config), predictor.size_px, config)
    written = 0
    progress = Progress("predict", total, PROGRESS_SECONDS)
    started = time.monotonic()
    for name, prediction in predictor.stream(reader):
        storage.write_bytes(storage.join(output, name), mask_png(translation(prediction.class_map), colors))
        written += 1
        progress.add(written + len(reader.broken) - progress.done, len(reader.broken) - progress.quarantined)
    progress.close()
    seconds = time.monotonic() - started
    broken = _list_broken(reader.broken, storage.join(output, "broken.jsonl"))
    return {
        "images": total,
        "masks": written,
        "broken": len(reader.broken),
        "images_per_second": round(written / seconds, 3) if written else 0.0,
        "output": output,
        "broken_list": broken,
        "student": predictor.card.config.name,
        "student_digest": digest,
    }


def _ids(card: "StudentCard", config: PredictJobConfig) -> tuple[Callable[["Ids"], "Ids"], "Colors"]:
    """What turns the student's ids into those that the masks should have, and the palette of those."""
    from models.students.masks import palette

    if config.classes is None:
        return lambda ids: ids, palette(card)
    import numpy as np

    from pipelines.classes import ClassSet, ClassSetError
    from pipelines.evaluation.model import class_set
    from pipelines.migrations import UNKNOWN, Translation

    try:
        wanted = ClassSet.load(config.classes)
    except ClassSetError as error:
        raise UsageError(f"--classes: {error}") from error
    translation = Translation.of(class_set(card), wanted)
    if translation.unmatched:
        names = ", ".join(translation.unmatched)
        raise UsageError(f"--classes: it knows nothing of the student's {names}: record their `migrations`")
    colors = wanted.palette()
    dtype = np.uint8 if len(colors) <= 255 else np.uint16
    silent = np.iinfo(dtype).max  # as masks say that nothing is known

    def translated(ids: "Ids") -> "Ids":
        found = translation.ids(ids)
        return np.where(found == UNKNOWN, silent, found).astype(dtype)

    return translated, colors


def _load(config: PredictJobConfig) -> tuple["Predictor", str]:
    import torch

    from models.students.card import student_digest
    from models.students.predict import Predictor
    from pipelines.references import ModelReferenceError, resolve_student
    from pipelines.tracking import choose_store

    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        folder = resolve_student(config.model, tracking_uri=choose_store("", config.output)[0]).path
        return Predictor.load(folder, config.device, config.predict), student_digest(folder)
    except (ModelReferenceError, FileNotFoundError, ValueError) as error:
        raise UsageError(f"--model: {error}") from error


def _assets(corpus: Any, config: PredictJobConfig) -> Iterator["Asset"]:
    return islice(corpus.list(), config.limit)


def _list_broken(broken: Sequence[dict[str, str]], url: str) -> str | None:
    """Write the list, and say its first lines; a list of an earlier run that found some is replaced or removed."""
    for row in broken[:BROKEN_SHOWN]:
        say(f"not read: {row['image']}: {row['reason']}")
    if not broken:
        storage.remove(url)
        return None
    storage.write_bytes(url, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in broken).encode())
    return url


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(PredictJobConfig, argv, prog="predict.py", description=__doc__ or "")
    stop_on_signals()
    try:
        summary = predict(config)
    except UsageError as error:
        say(f"error: {error}")
        return 2
    except Interrupted as error:
        say(f"stopped by {error}: the masks written so far stay")
        return error.exit_code
    except OSError as error:
        say(f"error: {error}")
        return 1
    say(f"{summary['masks']:,} masks in {summary['output']}, {summary['broken']:,} images could not be read")
    print(json.dumps(summary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
