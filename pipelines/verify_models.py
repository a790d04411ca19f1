"""Check a CLIP and a SAM checkpoint on the sample photographs, within a minute:

    python pipelines/verify_models.py --clip hf:openai/clip-vit-base-patch16 --sam ~/weights/sam_vit_b_01ec64.pth

What they should see is data: verify_models.json beside this file. Exit code 0: everything is as expected; 1: something
is not; 2: bad usage.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.corpus.read import read_bytes
from pipelines.corpus.sample import SampleCorpus
from pipelines.references import ModelReferenceError, resolve
from pipelines.stages.decode import decode

if TYPE_CHECKING:
    from models.clip.observer import ClipSeen

EXPECTATIONS = Path(__file__).with_name("verify_models.json")
PICTURE_PX = 1024
MAX_PIXELS = 10_000_000

Expected = dict[str, Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    check: str
    photo: str
    seen: str
    good: bool


def photographs() -> dict[str, npt.NDArray[np.uint8]]:
    """The sample photographs by name, uint8 [H, W, 3]."""
    return {
        asset.asset: decode(read_bytes(asset.uri), PICTURE_PX, MAX_PIXELS).pixels for asset in SampleCorpus().list()
    }


def values_at(grid: npt.NDArray[Any], points: Sequence[Sequence[float]]) -> npt.NDArray[Any]:
    """Values of a grid [h, w, ...] in the cells of points (fractions x, y)."""
    height, width = grid.shape[:2]
    xy = np.asarray(points)
    return grid[(xy[:, 1] * height).astype(int), (xy[:, 0] * width).astype(int)]


def check_clip(path: Path, expectations: Expected, device: str) -> Iterator[Finding]:
    """Zero-shot ranking of the words for each photograph, and the words' dense scores at listed points."""
    from models.clip.observer import ClipObserver
    from models.clip.text import TextEncoder
    from models.observe_config import ObserveConfig

    words = expectations["words"]
    text = TextEncoder(path, device).encode([expectations["template"].format(word) for word in words])
    observer = ClipObserver(ObserveConfig(), str(path), device)
    pictures = photographs()
    for expected in expectations["clip"]:
        (seen,) = observer.finish(observer.forward([observer.prepare(pictures[expected["photo"]])]))
        if "ranking" in expected["checks"]:
            yield _ranking(seen, text, words, expected)
        if "dense" in expected["checks"]:
            yield _dense(seen, text[words.index(expected["word"])], expected)


def _ranking(seen: "ClipSeen", text: Floats, words: list[str], expected: Expected) -> Finding:
    scores = text @ seen.embedding
    best = np.argsort(-scores)[:2]
    told = ", ".join(f"{words[i]} {scores[i]:.2f}" for i in best)
    return Finding(f"CLIP: a {expected['word']}", expected["photo"], told, words[best[0]] == expected["word"])


def _dense(seen: "ClipSeen", embedding: Floats, expected: Expected) -> Finding:
    """The word scores higher at points of the object than elsewhere, in most pairs of points."""
    inside, outside = (values_at(seen.features @ embedding, expected[side]) for side in ("inside", "outside"))
    share = float((inside[:, None] > outside[None]).mean())
    return Finding(
        f"CLIP: where the {expected['word']} is", expected["photo"], f"{share:.0%} of pairs right", share > 0.75
    )


def check_sam(path: Path, expectations: Expected, device: str) -> Iterator[Finding]:
    """Masks from a listed box or point cover the listed points of the object and none of the others."""
    from models.observe_config import ObserveConfig
    from models.sam.observer import SamObserver
    from models.sam.prompts import Prompts

    observer = SamObserver(ObserveConfig(), str(path), device)
    pictures = photographs()
    photos = list(dict.fromkeys(expected["photo"] for expected in expectations["sam"]))
    for photo in photos:  # Each photograph passes through the image encoder once.
        asked = [expected for expected in expectations["sam"] if expected["photo"] == photo]
        prompts = Prompts.concat(
            [Prompts.of_boxes(one["box"], 0) if "box" in one else Prompts.of_points(one["point"], 1) for one in asked]
        )
        (answer,) = observer.decode_prompts([observer.prepare(pictures[photo])], [prompts])
        rows, columns = (max(1, round(side)) for side in answer.valid)
        masks = (answer.logits[..., :rows, :columns] > 0).cpu().numpy()
        iou = answer.iou.cpu().numpy()
        for row, one in enumerate(asked):
            # A box asks for the single mask; a point for the alternative that covers best.
            candidates = range(1) if "box" in one else range(1, 4)
            yield max((_cover(masks[row, c], float(iou[row, c]), one) for c in candidates), key=lambda f: f.good)


def _cover(mask: npt.NDArray[np.bool_], iou: float, expected: Expected) -> Finding:
    inside, outside = values_at(mask, expected["inside"]), values_at(mask, expected["outside"])
    told = f"{inside.sum()} of {len(inside)} inside, {outside.sum()} of {len(outside)} outside, predicted IoU {iou:.2f}"
    kind = "box" if "box" in expected else "point"
    return Finding(f"SAM: mask from a {kind}", expected["photo"], told, bool(inside.all() and not outside.any()))


CHECKS = {"clip": ["ranking", "dense"], "sam": ["mask"]}


def for_kind(expectations: Expected, path: Path, part: str) -> Expected:
    """The expectations that hold for the checkpoint at `path`, each with its list of `checks`."""
    config = path / "config.json"
    pocket = config.is_file() and "maskstream" in json.loads(config.read_text())
    chosen = [
        {**one, "checks": one.get("pocket", CHECKS[part]) if pocket else CHECKS[part]} for one in expectations[part]
    ]
    return {**expectations, part: [one for one in chosen if one["checks"]]}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", default="pocket:clip", help="model reference, '' for none (default: %(default)s)")
    parser.add_argument("--sam", default="pocket:sam", help="model reference, '' for none (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    parser.add_argument("--expectations", type=Path, default=EXPECTATIONS, help="JSON (default: verify_models.json)")
    options = parser.parse_args(argv)
    expectations = json.loads(options.expectations.read_text())
    findings: list[Finding] = []
    checks = (("clip", options.clip, check_clip), ("sam", options.sam, check_sam))
    for part, reference, check in checks:
        if not reference:
            continue
        try:
            path = resolve(reference).path
            print(f"{reference}: {path}", flush=True)
            for finding in check(path, for_kind(expectations, path, part), options.device):
                findings.append(finding)
                print(f"{'ok  ' if finding.good else 'FAIL'}  {finding.check:32}  {finding.photo:28}  {finding.seen}")
        except (ModelReferenceError, FileNotFoundError, ValueError) as error:
            print(f"FAIL  {error}", file=sys.stderr)
            return 1
    bad = sum(not finding.good for finding in findings)
    print(f"{len(findings) - bad} of {len(findings)} checks as expected")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
