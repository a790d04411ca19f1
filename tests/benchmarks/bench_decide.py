"""What one *decide* costs at 352 px on one thread, and which share of it each step takes.

    python tests/benchmarks/bench_decide.py [--images 40]

Evidence of the size that the pocket models give: 20 x 18 patches of 256 numbers, 40 masks of 64 x 48, 20 classes, two
of them tagged as present. Milliseconds are CPU time, so that neighbours on the machine do not count; shares are of the
whole and hold from machine to machine. The steps are nested: refinement is a part of looking, masks a part of fusing.
"""

import argparse
import cProfile
import pstats
import time
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from skimage import data

from models.decide.baselines import heat_only, heat_par
from models.decide.config import DecideConfig
from models.decide.decide import decide
from models.decide.types import ClassArrays, TextBank, WeakArrays
from models.evidence import Evidence, MaskBank

STEPS = {
    "match text": "patch_scores",
    "presence": "presence",
    "look: guide, heat, masks to the grid": "look",
    "  refinement (PAR): affinity": "affinity",
    "  refinement (PAR): iterations": "propagate",
    "fuse": "fuse",
    "  masks of components": "component_masks",
    "  region votes": "region_votes",
    "guided upsampling": "guided_upsample",
    "disagreement": "disagree",
    "finish: class map, confidence, areas": "finish",
}
CLASSES = 20


def make_evidence(seed: int) -> Evidence:
    """Smooth random features and masks over a real photograph of 352 x 264 pixels."""
    rng = np.random.default_rng(seed)
    photo = Image.fromarray(data.astronaut() if seed % 2 else data.coffee()).convert("RGB").resize((352, 264))
    features = rng.normal(size=(18, 20, 256)).astype(np.float32)
    features[6:12, 4:9, seed % CLASSES] += 8
    y, x = np.mgrid[:48, :64]
    centres, radii = rng.random((40, 2)) * (48, 64), rng.random(40) * 18 + 3
    masks = [1 / (1 + np.exp(np.hypot(y - cy, x - cx) - r)) for (cy, cx), r in zip(centres, radii, strict=True)]
    bank = MaskBank(
        (np.stack(masks) * 255).astype(np.uint8),
        rng.random(40).astype(np.float32),
        rng.random(40).astype(np.float32),
        np.zeros(40, np.uint8),
    )
    embedding = features.mean((0, 1)) / np.linalg.norm(features.mean((0, 1)))
    return Evidence(264, 352, features, embedding, bank, np.asarray(photo))


def make_weak(form: str, seed: int) -> WeakArrays:
    """Two present classes, and on top of that, by name: points, boxes, or nothing at all."""
    present = np.isin(np.arange(CLASSES), [seed % CLASSES, (seed + 7) % CLASSES])
    weak = replace(WeakArrays.none(CLASSES), present=present, absent=~present)
    if form == "points":
        rows = np.array([seed % CLASSES, -1], np.int32)
        return replace(weak, points=np.array([[120, 110], [10, 10]], np.float32), point_classes=rows)
    if form == "boxes":
        box = np.array([[60, 70, 180, 190]], np.float32)
        return replace(weak, boxes=box, box_classes=np.array([seed % CLASSES], np.int32))
    return WeakArrays.none(CLASSES) if form == "nothing" else weak


def cpu_ms(evidences: list[Evidence], text: TextBank, form: str, config: DecideConfig) -> float:
    """CPU milliseconds an image, after one that warms the caches."""
    classes = ClassArrays(np.arange(1, CLASSES + 1, dtype=np.int32), [f"c{i}" for i in range(CLASSES)])
    decide(evidences[0], text, classes, make_weak(form, 0), config)
    start = time.process_time()
    for seed, evidence in enumerate(evidences):
        decide(evidence, text, classes, make_weak(form, seed), config)
    return (time.process_time() - start) / len(evidences) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="how many images to decide")
    count = parser.parse_args().images
    torch.set_num_threads(1)
    text = TextBank(np.eye(256, dtype=np.float32)[:CLASSES], np.arange(CLASSES, dtype=np.int32))
    evidences = [make_evidence(seed) for seed in range(count)]
    config = DecideConfig()
    whole = cpu_ms(evidences, text, "tags", config)
    print(f"decide, tags known: {whole:.1f} CPU ms an image, {1000 / whole:.0f} images a second and core")
    for name, form, other in (
        ("heat alone", "tags", heat_only(config)),
        ("heat and PAR", "tags", heat_par(config)),
        ("with points", "points", config),
        ("with boxes", "boxes", config),
        ("nothing known", "nothing", config),
    ):
        print(f"  {name:<38} {cpu_ms(evidences, text, form, other) / whole:5.2f} of that")
    profile = cProfile.Profile()
    profile.runcall(cpu_ms, evidences, text, "tags", config)
    stats = pstats.Stats(profile).get_stats_profile().func_profiles
    print("steps, as shares of the whole:")
    for label, function in STEPS.items():
        share = stats[function].cumtime / stats["decide"].cumtime if function in stats else 0.0
        print(f"  {label:<38} {share:5.2f}")


if __name__ == "__main__":
    main()
