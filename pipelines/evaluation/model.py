"""A student against gold masks: it predicts the photographs that the masks are about."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from models.students.card import StudentCard
from models.students.predict import Picture, Prediction, Predictor
from pipelines.classes import ClassSet, ClassSetError
from pipelines.config import UsageError
from pipelines.evaluation.config import ELSEWHERE, EvaluateConfig
from pipelines.evaluation.gold import Gold, Matching, match, open_gold, read_names
from pipelines.evaluation.photographs import find_photographs, read_photograph
from pipelines.evaluation.score import MapScore, image_iou
from pipelines.flow.progress import Progress
from pipelines.references import ModelReferenceError, Resolved, resolve_student
from pipelines.report.worst import JudgedItem, WorstPage
from pipelines.tracking import choose_store

PROGRESS_SECONDS = 5.0
READ_THREADS, READ_AHEAD = 4, 16

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """What is compared with what. photographs: address by the name of the mask."""

    student: Resolved
    predictor: Predictor
    gold: Gold
    photographs: dict[str, str]
    matching: Matching
    page: WorstPage


def open_job(config: EvaluateConfig) -> Job:
    """Find and load all that is compared. Raises UsageError, and ValueError for a damaged student."""
    assert config.model is not None
    try:
        registry = choose_store(config.tracking.uri, config.output or ELSEWHERE)[0]
        student = resolve_student(config.model, tracking_uri=registry)
        predictor = Predictor.load(student.path, config.device, config.predict)
    except (ModelReferenceError, FileNotFoundError) as error:
        raise UsageError(f"--model: {error}") from error
    classes = class_set(predictor.card)
    only = None if config.gold.list is None else read_names(config.gold.list)
    options = (config.gold.split, config.gold.classes, classes, config.gold.ignore)
    gold = open_gold(config.gold.uri, *options, only, read_names(config.exclude))
    matching = match(gold.classes, classes, gold.ignore)
    photographs = find_photographs(gold, config.gold.images)
    colors = {entry.name: entry.color for entry in gold.classes.classes}
    shown = [(name, colors.get(name, (0, 0, 0))) for name in matching.names]
    background = 0 if "background" in matching.names else None
    return Job(student, predictor, gold, photographs, matching, WorstPage(shown, background, config.page_images))


def class_set(card: StudentCard) -> ClassSet:
    """The classes that a student knows. Raises ValueError where its card is damaged."""
    entries = [{key: c[key] for key in ("id", "name", "color") if key in c} for c in card.classes]
    background: Any = False
    if card.background:
        background = {"words": [], **{key: value for key, value in entries.pop(0).items() if key != "name"}}
    try:
        return ClassSet.from_dict({"background": background, "classes": entries})
    except ClassSetError as error:
        raise ValueError(f"the student's card names no usable class set: {error}") from error


def evaluate_model(job: Job) -> dict[str, Any]:
    """The numbers; the worst images go to `job.page`. Raises ValueError for what cannot be read or does not fit."""
    score = MapScore(job.matching.names)
    names = sorted(job.gold.masks)
    clock = ForwardClock(job.predictor)
    job.predictor(read_photograph(job.photographs[names[0]]))  # so that no measured forward pass is the first one
    progress = Progress("evaluate", len(names), PROGRESS_SECONDS)
    started, judging = time.monotonic(), 0.0
    with clock:
        for (name, picture), prediction in job.predictor.stream(_photographs(job, names)):
            before = time.monotonic()
            _judge(job, score, name, picture, prediction)
            progress.add(1)
            judging += time.monotonic() - before
    progress.close()
    # What a person pays who only predicts: scores and the page cost more than a small student.
    seconds = time.monotonic() - started - judging
    return {
        "images": score.images,
        "gold_digest": job.gold.digest,
        **score.result(),
        "images_per_second": {
            "model": round(len(names) / max(clock.seconds, 1e-9), 2),
            "total": round(len(names) / max(seconds, 1e-9), 2),
        },
        "unmatched": {"gold": job.matching.only_gold, "model": job.matching.only_label},
    }


def _photographs(job: Job, names: Iterable[str]) -> Iterator[tuple[tuple[str, Picture], Picture, None]]:
    def read(name: str) -> tuple[str, Picture]:
        return name, read_photograph(job.photographs[name])

    for name, picture in read_ahead(read, names):
        yield (name, picture), picture, None


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map`, some items ahead in threads, so that whoever computes does not wait for a disk or a network."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _judge(job: Job, score: MapScore, name: str, picture: Picture, prediction: Prediction) -> None:
    mask = job.gold.read(name)
    if mask.shape != picture.shape[:2]:
        raise ValueError(
            f"{job.photographs[name]} covers {picture.shape[:2]} pixels, its gold mask {job.gold.masks[name]} "
            f"{mask.shape}"
        )
    gold, found = job.matching.gold(mask), job.matching.label(prediction.class_map)
    score.update(gold, found, prediction.confidence)
    iou, class_iou = image_iou(gold, found, len(job.matching.names))
    job.page.add(JudgedItem(name, picture, gold, found, prediction.confidence, iou, class_iou))


class ForwardClock:
    """Seconds that a predictor's network takes, as a context manager; without resizing and enlarging."""

    def __init__(self, predictor: Predictor) -> None:
        self.seconds = 0.0
        self._student, self._device = predictor.student, predictor.device
        self._started = 0.0
        self._hooks: list[Any] = []

    def __enter__(self) -> "ForwardClock":
        self._hooks = [
            self._student.register_forward_pre_hook(self._start),
            self._student.register_forward_hook(self._stop),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _start(self, *arguments: object) -> None:
        self._started = self._now()

    def _stop(self, *arguments: object) -> None:
        self.seconds += self._now() - self._started
