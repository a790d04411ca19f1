"""Published labels in the formats of others: COCO, YOLO-seg, PASCAL VOC, Hugging Face.

    python pipelines/export.py --labels out/photos --to coco
    python pipelines/export.py --labels out/photos --to yolo --val 0.1 --keep row --output s3://bucket/yolo
    python pipelines/export.py --labels s3://bucket/labels --to huggingface --title "Our streets" --license cc-by-4.0

One snapshot is exported, image by image, so a corpus of any size takes the same memory. The same command again does
nothing, or finishes what was stopped; after the labels changed it brings the folder up to date, and leaves files of
others there. Every format needs a folder of its own. What is in it:

    coco           annotations/instances_SPLIT.json (RLE), images/
    coco-panoptic  annotations/panoptic_SPLIT.json, annotations/panoptic_SPLIT/*.png, images/
    yolo           data.yaml, images/SPLIT/, labels/SPLIT/ (polygons, exact as trainers draw them)
    voc            VOCdevkit/VOC2012/ with JPEGImages, SegmentationClass (palette PNGs), ImageSets, labelmap.txt
    huggingface    data/SPLIT-*.parquet with image, label and confidence, README.md (the card), id2label.json
    all            export.json (what it is of; `skipped`), classes.yaml, assets.json (file name to asset)

coco and yolo leave out parts of fewer than 20 pixels (--min_area_px 1 has them too); the other formats, and coco with
--instances classes, hold every pixel. Images that lie on a side by their EXIF are turned upright. An image that is
gone, or whose bytes are not the labeled ones, is left out and listed. The last line on stdout is one JSON object. Exit
codes: 0 exported; 1 failed, or images were left out; 2 bad usage; 130 and 143 stopped by SIGINT and SIGTERM.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.config import UsageError, parse
from pipelines.exports.config import ExportConfig
from pipelines.flow.progress import say
from pipelines.flow.stop import Interrupted, stop_on_signals


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(ExportConfig, argv, prog="export.py", description=__doc__ or "")
    stop_on_signals()
    # Everything heavy is imported after the config is known to be good, so that --help and errors are quick.
    from pipelines.exports.job import export

    try:
        summary = export(config)
    except UsageError as error:
        say(f"error: {error}")
        return 2
    except Interrupted as error:
        say(f"stopped by {error}: the same command finishes the export")
        return error.exit_code
    except OSError as error:
        say(f"error: {error}")
        return 1
    done = "exported" if summary["written"] else "exported before"
    say(f"{summary['images']:,} images {done} to {summary['output']}, {summary['skipped']:,} left out")
    if specks := summary.get("specks_left_out"):
        say(f"{specks:,} parts of fewer than {config.smallest_px} pixels left out; --min_area_px 1 has them too")
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    return 1 if summary["skipped"] else 0


if __name__ == "__main__":
    sys.exit(main())
