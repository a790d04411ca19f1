"""The numbers of decide-configs: of the hold-out of the searches that found them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import UsageError
from tuning.promotion.gate import Judged, PromotionGate, Side
from tuning.promotion.students import Incomparable

#: What is equal among searches that differ by their seed; a snapshot is one of these labels.
MUST_AGREE = ("corpus", "labels", "snapshot", "gold", "objective")


@dataclass(frozen=True)
class Searched:
    """What a search left. who: where it is, for people. yaml: its decide.yaml. result: its result.json."""

    who: str
    yaml: str
    result: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of *decide* that it found."""
        return dict(self.result["decide"])

    @property
    def default(self) -> dict[str, Any]:
        """Those that the labels it searched on were made with."""
        return self.settings | {name: before for name, (before, _) in self.result["changed"].items()}

    @property
    def holdout(self) -> Mapping[str, Any]:
        """Raises Incomparable where no image was held out."""
        found = self.result.get("holdout")
        if not found:
            raise Incomparable(f"{self.who} held no image out, so what it is worth is not known: search with --holdout")
        return dict(found)

    def judged(self, part: str, metric: str) -> Judged:
        """part: default or winner."""
        classes = (self.holdout.get("per_class_iou") or {}).get(part, {})
        return Judged(f"{self.who} (seed {self.result['seed']})", self.holdout[part].get(metric), classes)


def check_seeds(searches: Sequence[Searched]) -> None:
    """Raises UsageError where these are not searches for the same, of as many seeds."""
    first = searches[0]
    for one in searches[1:]:
        for name in MUST_AGREE:
            ours, theirs = first.result.get(name), one.result.get(name)
            if ours != theirs:
                raise UsageError(f"--decide: {one.who} is no other seed of {first.who}: {name} is {theirs}, not {ours}")
    if len({one.result["seed"] for one in searches}) < len(searches):
        raise UsageError("--decide: two of the searches have the same seed")


def sides(gate: PromotionGate, new: Sequence[Searched], old: Searched | None) -> tuple[Side, Side, str]:
    """(challenger, champion, what they were judged by). Without a champion, the settings that the labels were made with
    are what has to be beaten. Raises Incomparable."""
    winners = Side([one.judged("winner", gate.metric) for one in new])
    images = f"hold-out of {new[0].holdout['images']} images of {new[0].result['corpus']}"
    if old is None or all(_same(one.default, old.settings) for one in new):
        return winners, Side([one.judged("default", gate.metric) for one in new]), images
    if all(one.holdout.get("digest") and one.holdout["digest"] == old.holdout.get("digest") for one in new):
        return winners, Side([old.judged("winner", gate.metric)]), images
    raise Incomparable(
        f"{new[0].who} was compared with other settings than the champion's, on other images than the champion: label "
        "with the champion (label_corpus.py --config models:/NAME@champion --from-evidence) and search again"
    )


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(json.loads(json.dumps(one)) == json.loads(json.dumps(other)))
