"""Gold masks: which there are, and what their ids mean in the words of the labels' class set."""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.classes import ClassEntry, ClassSet
from pipelines.config import UsageError
from pipelines.corpus.base import CorpusError, absolute, join, kind, walk
from pipelines.corpus.read import read_bytes
from pipelines.corpus.voc import MASKS, VocCorpus
from pipelines.migrations import UNKNOWN, Translation, read_class

IGNORED = -1
Indices = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Gold:
    """Masks by name (the path below their folder without suffix), the class set of their ids, and the ignored id."""

    address: str
    masks: dict[str, str]
    classes: ClassSet
    ignore: int
    stems: dict[str, str] = field(default_factory=dict)
    _read: dict[str, str] = field(default_factory=dict, compare=False)

    def name_of(self, asset: str) -> str | None:
        """The mask that belongs to an asset: of the same path, or of the same file name where that is unique."""
        path = asset.rpartition(".")[0] or asset
        return path if path in self.masks else self.stems.get(path.rpartition("/")[2])

    def read(self, name: str) -> npt.NDArray[np.int32]:
        """Class ids int32 [H, W] of a mask. Raises ValueError for a picture that is not one id a pixel."""
        content = read_bytes(self.masks[name])
        self._read[name] = hashlib.sha256(content).hexdigest()
        with Image.open(io.BytesIO(content)) as image:
            mask = np.array(image)
        if mask.ndim != 2:
            raise ValueError(f"{self.masks[name]} is not one class id a pixel: its shape is {mask.shape}")
        return mask.astype(np.int32)

    @property
    def digest(self) -> str:
        """sha256, hex, of what was judged by: the masks that were read so far, and what their ids mean. Numbers can be
        compared where it is equal."""
        return self._digest(self._read)

    def digest_of(self, assets: Iterable[str]) -> str:
        """The same of some assets, whose masks were read."""
        return self._digest({name for name in map(self.name_of, assets) if name is not None})

    def _digest(self, names: Iterable[str]) -> str:
        told = [sorted((name, self._read[name]) for name in names), self.classes.digest, self.ignore]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def open_gold(
    uri: str,
    split: str | None,
    classes: str | None,
    default: ClassSet,
    ignore: int,
    only: Iterable[str] | None,
    exclude: Iterable[str],
) -> Gold:
    """Gold masks of a VOC layout (`voc:PATH`, names of a split) or of a folder of PNG masks.

    classes: what the ids mean; default: VOC's for `voc:`, else the labels' own. only, exclude: mask names to use and
    to leave out. Raises UsageError.
    """
    try:
        if uri.startswith("voc:"):
            corpus = VocCorpus(uri.removeprefix("voc:"), split)
            folders = [join(corpus.root, folder) for folder in MASKS]
            names = None if split is None else {asset.asset.removeprefix("JPEGImages/") for asset in corpus.list()}
            wanted = None if names is None else {_stem(name) for name in names}
            meaning = corpus.default_classes()
        else:
            folders = [absolute(uri)]
            wanted, meaning = None, default
            if split is not None:
                raise UsageError("--gold.split is for voc: gold; give the folder of the split's masks instead")
    except CorpusError as error:
        raise UsageError(f"--gold.uri: {error}") from error
    if all("://" not in folder and not Path(folder).is_dir() for folder in folders):
        raise UsageError(f"--gold.uri: there is no folder {' or '.join(folders)}")
    masks = _masks(folders, wanted)
    if only is not None:
        listed = set(only)
        if absent := sorted(listed - masks.keys()):
            raise UsageError(f"--gold.list names {len(absent)} images without a mask, such as {absent[0]!r}")
        masks = {name: address for name, address in masks.items() if name in listed}
    left_out = set(exclude)
    masks = {name: address for name, address in masks.items() if name not in left_out}
    if not masks:
        raise UsageError(f"there is no gold mask in {' or '.join(folders)} (after --gold.list and --exclude)")
    meaning = ClassSet.load(classes) if classes else meaning
    return Gold(uri, masks, meaning, ignore, _unique_stems(masks))


def _masks(folders: Iterable[str], wanted: set[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for folder in folders:
        if kind(folder) == "folder":
            entries = ((_stem(entry.path), entry) for entry in walk(folder) if entry.path.lower().endswith(".png"))
            found = {n: entry.uri for n, entry in entries if wanted is None or n in wanted} | found
    if wanted is not None and (absent := sorted(wanted - found.keys())):
        raise UsageError(f"{len(absent)} images of the split have no gold mask, such as {absent[0]!r}")
    return found


def _unique_stems(masks: Iterable[str]) -> dict[str, str]:
    stems: dict[str, list[str]] = {}
    for name in masks:
        stems.setdefault(name.rpartition("/")[2], []).append(name)
    return {stem: names[0] for stem, names in stems.items() if len(names) == 1}


def _stem(path: str) -> str:
    return path.rpartition(".")[0] or path


@dataclass(frozen=True)
class Matching:
    """A common index for gold and label classes of the same name: 0..len(names)-1.

    Gold classes that the labels do not know are background to them, if they have one, and not judged otherwise. Label
    classes that the gold does not know are wrong wherever they are (index len(names)).
    """

    names: tuple[str, ...]
    only_gold: tuple[str, ...]
    only_label: tuple[str, ...]
    _gold: npt.NDArray[np.int32]
    _label: npt.NDArray[np.int32]

    def gold(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """Gold ids [H, W] as common indices; IGNORED where a pixel is not judged."""
        return _apply(self._gold, ids, IGNORED)

    def read_through(self, translation: Translation) -> "Matching":
        """The same for labels of an older class set, which `translation` reads as those that this is about."""
        return replace(self, _label=self.label(translation.table))

    def label(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """Label ids [H, W] as common indices; len(names) where the class is none of the gold's."""
        return _apply(self._label, ids, len(self.names))


def match(gold: ClassSet, label: ClassSet, ignore: int) -> Matching:
    """Match by the migrations that either records, by name and synonyms, in any case. A gold class that was split
    since is not judged. Raises UsageError where no class of one is in the other."""
    names: list[str] = []
    gold_of: dict[int, int] = {}
    label_of: dict[int, int] = {}
    if gold.background and label.background:
        names.append("background")
        gold_of[gold.background.id] = label_of[label.background.id] = 0
    only_gold = []
    for entry in gold.classes:
        others = _counterparts(entry, gold, label)
        if not others:
            only_gold.append(entry.name)
            split = read_class(label, entry.id, (entry.name, *entry.synonyms)) == UNKNOWN
            if label.background and gold.background and not split:
                gold_of[entry.id] = 0
            continue
        taken = [other for other in others if other.id in label_of]
        if taken and not label.migrations:
            raise UsageError(f"two gold classes match the label class {taken[0].name!r}; one of them is {entry.name!r}")
        gold_of[entry.id] = label_of[taken[0].id] if taken else len(names)
        if not taken:
            # Gold classes that were merged since are judged as what they became.
            merged = label.lineage.is_narrower(entry.name)
            names.append(others[0].name if merged else entry.name)
            label_of |= {other.id: gold_of[entry.id] for other in others}
    if len(names) == (1 if gold.background and label.background else 0):
        raise UsageError(
            f"no class of the gold masks ({', '.join(gold.names[:8])}…) is a class of the labels "
            f"({', '.join(label.names[:8])}…): --gold.classes says what the masks' ids mean"
        )
    only_label = [entry.name for entry in label.classes if entry.id not in label_of]
    gold_of.pop(ignore, None)
    return Matching(
        tuple(names),
        tuple(only_gold),
        tuple(only_label),
        _table(gold_of, IGNORED),
        _table(label_of, len(names)),
    )


def _counterparts(entry: ClassEntry, gold: ClassSet, label: ClassSet) -> list[ClassEntry]:
    """The label classes that are a gold class: one, or several that were merged to it since."""
    own = {other.id: other for other in label.classes}
    found = read_class(label, entry.id, (entry.name, *entry.synonyms))
    if found in own:
        return [own[found]]
    if not gold.migrations:
        return []
    return [o for o in label.classes if read_class(gold, o.id, (o.name, *o.synonyms)) == entry.id]


def _table(index_of: dict[int, int], otherwise: int) -> npt.NDArray[np.int32]:
    table = np.full(max(index_of) + 1, otherwise, np.int32)
    for class_id, index in index_of.items():
        table[class_id] = index
    return table


def _apply(table: npt.NDArray[np.int32], ids: npt.NDArray[np.integer], otherwise: int) -> npt.NDArray[np.int32]:
    known = (ids >= 0) & (ids < len(table))
    return np.where(known, table[np.where(known, ids, 0)], otherwise).astype(np.int32)


def read_names(address: str | None, whole_lines: bool = False) -> Iterator[str]:
    """Names, one a line, of a file or URL; a file suffix is dropped. Nothing for None.

    whole_lines: names have spaces; else a name ends at the first one, as in VOC's lists.
    """
    if address is None:
        return
    try:
        text = read_bytes(absolute(address)).decode("utf-8")
    except OSError as error:
        raise UsageError(f"the list {address} cannot be read: {error}") from error
    for line in text.splitlines():
        if line.strip():
            name = line.strip() if whole_lines else line.split()[0]
            yield _stem(name) if name.lower().endswith((".jpg", ".jpeg", ".png")) else name
