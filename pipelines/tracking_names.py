"""What MLflow calls things: stores, experiments, params, metrics. Pure text; imports nothing of MLflow."""

import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines import storage

BATCH = 100
"""MLflow refuses more params or tags than this in one call."""
PARAM_CHARACTERS = 6000
"""MLflow refuses longer values."""
SQLITE = "sqlite:///"
_HTTP = ("http://", "https://", "databricks")


def picture_stem(asset: str) -> str:
    """What the picture of an asset is called, after its number and before its suffix."""
    return re.sub(r"[^\w.-]+", "_", asset, flags=re.ASCII)[-80:]


def choose_store(uri: str, output: str) -> tuple[str, str | None]:
    """The tracking URI and, for a sqlite file, where its artifacts go (None: the server decides).

    First the configured URI, then MLFLOW_TRACKING_URI, then a sqlite file beside the output, so that all outputs in
    one folder can be compared; in the working directory where the output is a URL, or, where nothing can be written
    there, in the home directory or that of temporary files.
    """
    given = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if given:
        return given, artifacts_of(given)
    target = storage.absolute(output)
    if "://" in target:
        folders = [Path.cwd(), Path.home(), Path(tempfile.gettempdir())]
    else:
        folders = [Path(target).parent, Path(target)]
    *better, last = folders
    folder = next((one for one in better if os.access(one if one.exists() else one.parent, os.W_OK)), last)
    store = f"{SQLITE}{folder / 'mlflow.db'}"
    return store, artifacts_of(store)


def artifacts_of(tracking_uri: str) -> str | None:
    """Artifacts of a sqlite file lie beside it; else MLflow would put them below the working directory of whichever
    process logs first."""
    if not tracking_uri.startswith(SQLITE):
        return None
    return (Path(tracking_uri.removeprefix(SQLITE)).resolve().parent / "mlartifacts").as_uri()


def experiment_name(address: str) -> str:
    """What the experiment of a corpus is called: its address without what is odd in names, such as `voc/data/VOC2012`
    for `voc:../data/VOC2012` and `sample` for `sample:`."""
    parts = [part for part in re.split(r"[/:\\]+", address) if part not in ("", ".", "..", "~")]
    cleaned = [re.sub(r"[^\w.@+=-]+", "-", part).strip("-") for part in parts]
    return "/".join(part for part in cleaned if part)[-250:] or "corpus"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config as dotted names and short texts: what MLflow calls params."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            flat[metric_name(key)] = text[:PARAM_CHARACTERS]
    return flat


def metric_name(text: str) -> str:
    """`text` with what MLflow refuses in names replaced by an underscore."""
    cleaned = re.sub(r"[^\w.\- /]", "_", text, flags=re.ASCII).strip("/. ")
    return re.sub(r"/{2,}|(?<=/)\.+", "_", cleaned)[:250] or "_"


def numbers(values: Mapping[str, object], prefix: str = "") -> dict[str, float]:
    """The finite numbers among `values`; nested mappings become `outer/inner`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[f"{prefix}{name}"] = float(value)
    return found


def batches(items: Iterable[tuple[str, Any]]) -> list[list[tuple[str, Any]]]:
    entries = list(items)
    return [entries[i : i + BATCH] for i in range(0, len(entries), BATCH)]


def how_to_look(tracking_uri: str) -> str:
    """What a person types or opens to see the runs of this store."""
    if tracking_uri.startswith(_HTTP):
        return f"see {without_password(tracking_uri)}"
    return f"see them with: mlflow ui --backend-store-uri {without_password(tracking_uri)}"


def without_password(uri: str) -> str:
    return re.sub(r"(?<=://)([^/@:\s]*):[^/\s]*@", r"\1:***@", uri)


def first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return without_password(f"{type(error).__name__}: {text[0][:200] if text else 'no message'}")
