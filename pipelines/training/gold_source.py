"""Masks that people drew as training or validation images."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models.students.augment import IGNORE
from pipelines.classes import ClassSet
from pipelines.config import UsageError
from pipelines.corpus.base import Asset, absolute, kind, walk
from pipelines.corpus.folder import may_be_image
from pipelines.corpus.voc import VocCorpus
from pipelines.evaluation.gold import Gold, match, open_gold, read_names
from pipelines.training.config import GoldConfig
from pipelines.training.plan import Images
from pipelines.training.targets import Channels, MaskSource, look_up, read_mask

THREADS = 8


@dataclass
class GoldImages:
    """Images with masks, in the order of the masks' names. rest: images whose masks were left out on purpose."""

    images: Images
    source: MaskSource
    classes: ClassSet
    rest: list[Asset]
    gold: Gold

    def has(self, asset: str) -> bool:
        """Whether an asset of another listing is one of these images."""
        return self.gold.name_of(asset) is not None


def open_gold_images(config: GoldConfig, labels: ClassSet | None, exclude: set[str], number: int) -> GoldImages:
    """labels: the class set to translate to, None to take the masks' own. number: what `Images.source` calls it.

    Raises UsageError.
    """
    uri = str(config.uri)
    if labels is None and config.classes is None and not uri.startswith("voc:"):
        raise UsageError(
            "--gold.classes is missing: it says what the ids in the masks mean (voc, camvid, a file, names)"
        )
    default = labels or ClassSet.load(config.classes or "voc")
    gold = open_gold(uri, config.split, config.classes, default, config.ignore, None, exclude)
    photographs = _photographs(config, gold)
    names = sorted(gold.masks.keys() & photographs.keys())
    if not names:
        raise UsageError(
            f"no photograph belongs to the {len(gold.masks)} masks of {uri}: --gold.images names their folder"
        )
    wanted = _wanted(config, names)
    rest = [photographs[name] for name in names if name not in wanted]
    used = [name for name in names if name in wanted]
    channels = Channels.of(labels or gold.classes)
    table = _table(gold, labels, channels)
    uris = pa.array([gold.masks[name] for name in used], pa.string())
    images = Images(
        pa.array([photographs[name].asset for name in used], pa.string()),
        pa.array([photographs[name].uri for name in used], pa.string()),
        np.full(len(used), number, np.int8),
        np.arange(len(used)),
        (np.arange(len(used)) // 256).astype(np.int32),
        _areas(uris.to_pylist(), table, len(channels)),
        np.ones(len(used), np.float32),
        pa.array([""] * len(used), pa.string()),
    )
    only = Gold(gold.address, {name: gold.masks[name] for name in used}, gold.classes, gold.ignore, gold.stems)
    return GoldImages(images, MaskSource(uris, table, channels), labels or gold.classes, rest, _only(only))


def _only(gold: Gold) -> Gold:
    """Gold whose short names are those of its own masks."""
    stems = {stem: name for stem, name in gold.stems.items() if name in gold.masks}
    return Gold(gold.address, gold.masks, gold.classes, gold.ignore, stems)


def _wanted(config: GoldConfig, names: list[str]) -> set[str]:
    listed = set(names)
    if config.list is not None:
        listed = set(read_names(config.list))
        if absent := sorted(listed - set(names)):
            raise UsageError(f"--gold.list names {len(absent)} images without a mask, such as {absent[0]!r}")
    return set([name for name in names if name in listed][:: config.every])


def _photographs(config: GoldConfig, gold: Gold) -> dict[str, Asset]:
    """Photographs by the name of their mask."""
    found: dict[str, Asset] = {}
    for asset in _listing(config):
        name = gold.name_of(asset.asset)
        if name is None:
            continue
        if name in found:
            raise UsageError(f"two photographs belong to the mask {name!r}: {found[name].asset} and {asset.asset}")
        found[name] = asset
    return found


def _listing(config: GoldConfig) -> Iterator[Asset]:
    uri = str(config.uri)
    if uri.startswith("voc:") and config.images is None:
        yield from VocCorpus(uri.removeprefix("voc:"), config.split).list()
        return
    folder = absolute(config.images or uri)
    if kind(folder) != "folder":
        raise UsageError(f"--gold.images: there is no folder at {folder}")
    for entry in walk(folder):
        # Photographs beside their masks: the masks are the PNG files.
        is_mask = config.images is None and entry.path.lower().endswith(".png")
        if may_be_image(entry.path) and not is_mask:
            yield Asset(entry.path, entry.uri, entry.size_bytes, entry.mtag)


def _table(gold: Gold, labels: ClassSet | None, channels: Channels) -> npt.NDArray[np.int16]:
    """int16 by gold id: the channel, IGNORE for what is not judged."""
    if labels is None:
        table = channels.table.copy()
        if gold.ignore < len(table):
            table[gold.ignore] = IGNORE
        return table
    matching = match(gold.classes, labels, gold.ignore)
    channel_of = np.full(len(matching.names) + 1, IGNORE, np.int16)
    channel_of[matching.label(np.array(channels.ids))] = np.arange(len(channels))
    channel_of[len(matching.names)] = IGNORE
    highest = max([entry.id for entry in gold.classes.classes] + [0])
    common = matching.gold(np.arange(highest + 1))
    return np.where(common >= 0, channel_of[common], IGNORE).astype(np.int16)


def _areas(uris: list[str], table: npt.NDArray[np.int16], channels: int) -> npt.NDArray[np.float16]:
    """float16 [N, C]: the share of the judged pixels by channel. Raises UsageError for a mask that cannot be read."""

    def area(uri: str) -> npt.NDArray[np.float64]:
        try:
            found = look_up(table, read_mask(uri))
        except (OSError, ValueError) as error:
            raise UsageError(f"the gold mask {uri} cannot be used: {error}") from error
        return np.bincount(found[found >= 0], minlength=channels) / max(1, int((found >= 0).sum()))

    with ThreadPoolExecutor(THREADS) as pool:
        rows = list(pool.map(area, uris))
    return np.array(rows, np.float16).reshape(-1, channels)
