"""Tell MLflow what it missed: runs whose server was away, from what they left in their output.

    python tuning/upload.py --output out/photos --tracking.uri http://mlflow:5000
    python tuning/upload.py --output s3://bucket/labels

A run that loses MLflow goes on, and keeps params, metrics, tags and files in `mlflow-pending` in its folder. This finds
all of those below --output, tells them to --tracking.uri (default: MLFLOW_TRACKING_URI, or the sqlite file beside the
output), and drops what was told. It may be stopped and repeated: nothing arrives twice.

The last line on stdout is one JSON object. Exit codes: 0 all is told, also where there was nothing to tell; 1 MLflow
cannot be used, and everything stays as it was; 2 bad usage.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Also when it is run as a script, from anywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pydantic import Field

from pipelines import storage
from pipelines.config import Section, TrackingConfig, UsageError, parse
from pipelines.flow.progress import say

PATIENCE_S = "60"


class UploadConfig(Section):
    """What `upload.py` can be told."""

    output: str = Field(description="the output folder or URL of a job, or a folder of several")
    tracking: TrackingConfig = TrackingConfig()


def upload(config: UploadConfig) -> dict[str, Any]:
    """Upload all that is kept below the output. Raises UsageError; MLflow's errors pass through."""
    from pipelines import tracking_pending
    from pipelines.tracking import choose_store, how_to_look

    output = storage.absolute(config.output)
    if not storage.exists(output):
        raise UsageError(f"--output: there is nothing at {output}")
    uri = choose_store(config.tracking.uri, output)[0]
    # Nothing else waits for this, so a slow server is given its time.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", PATIENCE_S)
    uploaded = {}
    for number, address in enumerate(list(tracking_pending.find(output)), 1):
        uploaded[address], refused = tracking_pending.upload(address, uri)
        say(f"upload: {number}: {address.rpartition('/')[0]} is run {uploaded[address]}")
        for reason in refused:
            say(f"MLflow does not take {reason}")
    say(how_to_look(uri) if uploaded else f"nothing below {output} waits to be uploaded")
    return {"uploaded": len(uploaded), "runs": list(uploaded.values())}


def main(argv: Sequence[str] | None = None) -> int:
    config = parse(UploadConfig, argv, prog="upload.py", description=__doc__ or "")
    try:
        summary = upload(config)
    except UsageError as error:
        say(f"error: {error}")
        return 2
    except Exception as error:  # MLflow's stores have errors of their own kinds
        from pipelines.tracking_names import first_line

        say(f"error: MLflow cannot be used ({first_line(error)}); what was not uploaded is kept")
        return 1
    print(json.dumps(summary), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
