"""Forgetting from beginning to end: who is meant, remember, remove, look again, tell."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pipelines import storage
from pipelines.config import UsageError
from pipelines.flow import indexing
from pipelines.flow.progress import Progress, say
from pipelines.flow.stop import RunFailed
from pipelines.forgetting import delta, files, identity, parquet, pending, reach
from pipelines.forgetting.aliases import Listing, find, names_below
from pipelines.forgetting.config import ForgetConfig
from pipelines.forgetting.memory import Forgotten
from pipelines.forgetting.names import Names
from pipelines.forgetting.places import PENDING, Place, places
from pipelines.lock import only_run
from pipelines.tracking import choose_store

PROGRESS_SECONDS = 5.0
# Called right before every change, and stops it by raising LockLost; None only looks.
Apply = Callable[[], None] | None


@dataclass
class Work:
    """What one forgetting is about. roots: the output first, then other folders. unreachable: what it cannot remove.
    listings: what exports and reviews call the images."""

    names: Names
    roots: list[str]
    unreachable: reach.Unreachable = field(default_factory=reach.Unreachable)
    listings: list[Listing] = field(default_factory=list)

    def covering(self, place: Place) -> list[Listing]:
        return [listing for listing in self.listings if listing.covers(place.root, place.path)]

    def look_for_listings(self) -> None:
        """Add what the lists below the roots call the images now."""
        found = [listing for root in self.roots for listing in find(root, storage.tree(root), self.names)]
        self.listings = list(dict.fromkeys(self.listings + found))

    def to_json(self) -> bytes:
        names = {f.name: sorted(getattr(self.names, f.name)) for f in fields(Names)}
        told = {"unreachable": asdict(self.unreachable), "listings": [asdict(one) for one in self.listings]}
        return json.dumps({"names": names, "roots": self.roots, **told}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Work":
        found = json.loads(data)
        told = found["unreachable"]
        told["students"] = [reach.Student(**student) for student in told["students"]]
        names = Names(**{key: set(values) for key, values in found["names"].items()})
        listings = [
            Listing(one["root"], one["folder"], tuple(one["own"]), tuple(one["taken"])) for one in found["listings"]
        ]
        return cls(names, found["roots"], reach.Unreachable(**told), listings)

    def __add__(self, other: "Work") -> "Work":
        names = Names(*(getattr(self.names, f.name) | getattr(other.names, f.name) for f in fields(Names)))
        names.others -= names.all
        names.rivals -= names.all
        mine, theirs = asdict(self.unreachable), asdict(other.unreachable)
        both = {key: list(getattr(self.unreachable, key)) for key in mine}
        for key in theirs:
            both[key] += [item for item in getattr(other.unreachable, key) if item not in both[key]]
        roots = list(dict.fromkeys(self.roots + other.roots))
        listings = list(dict.fromkeys(self.listings + other.listings))
        return Work(names, roots, reach.Unreachable(**both), listings)


def forget(config: ForgetConfig) -> dict[str, Any]:
    """Forget, and return the summary. Raises UsageError, and RunFailed where something is left."""
    output = storage.absolute(config.output)
    if not storage.tree(output):
        raise UsageError(f"--output: {output} holds nothing")
    if config.dry_run:
        work = _work(config, output, storage.tree(output))
        return _summary(config, work, _pass(work)[0], [])
    with only_run(output, config.lock) as confirm:
        return _forget(config, output, confirm)


def _forget(config: ForgetConfig, output: str, confirm: Callable[[], None]) -> dict[str, Any]:
    work = _work(config, output, storage.tree(output))
    # What was being written when a run was killed can be of any image, and nothing reads it.
    confirm()
    if unfinished := sum(storage.remove_unfinished(root) for root in work.roots):
        say(f"forget: removed {unfinished:,} files of writes that were killed")
    if indexed := sum(indexing.remove(root) for root in work.roots):
        say(f"forget: removed {indexed:,} files of search indices; who needs one makes it again, without the image")
    storage.write_bytes(storage.join(output, PENDING), work.to_json())
    if config.remember:
        # First of all: from now on no run brings the image back, whatever becomes of this one.
        Forgotten.load(output).remember(output, _marks(work.names))
    counts = _pass(work, confirm)[0]
    left = _pass(work)[1]
    summary = _summary(config, work, counts, left)
    if left:
        raise RunFailed(
            f"{len(left)} places still hold the image, such as {left[0]}; they were not in a form that is known. "
            "Remove them by hand, then run the same command again"
        )
    confirm()
    storage.remove(storage.join(output, PENDING))
    return summary


def _work(config: ForgetConfig, output: str, paths: list[str]) -> Work:
    also = [storage.absolute(folder) for folder in config.also]
    before = _interrupted(output, also)
    if before is not None:
        say(f"forget: goes on with {len(before.names.assets):,} images of an interrupted run")
        if not config.asset and not config.uri:
            return before
    elif not config.asset and not config.uri:
        raise UsageError("nothing to forget: give --asset or --uri (no interrupted run is waiting either)")
    roots = [output, *also]
    known = identity.Known(output, paths)
    subject = identity.identify(known, config.asset, config.uri)
    work = Work(subject.names, roots)
    work.look_for_listings()
    _check(config, output, known, work)
    for asset in subject.same_bytes:
        say(f"forget: {asset} has the same bytes and is forgotten too")
    if subject.kept_digests:
        say(f"forget: {subject.kept_digests} earlier contents are those of other images too, and stay with them")
    snapshots = reach.snapshots_with(output, subject.names)
    work.unreachable = reach.Unreachable(
        reach.students_around(output, snapshots),
        reach.mlflow(choose_store(config.tracking_uri, output)[0], output, snapshots),
        reach.photographs(subject.names),
        reach.remarks(output),
    )
    return work if before is None else before + work


def _interrupted(output: str, also: list[str]) -> Work | None:
    """What a killed run was about, and what exports and reviews that were made since call it."""
    pending = storage.join(output, PENDING)
    if not storage.exists(pending):
        return None
    before = Work.from_json(storage.read_bytes(pending))
    before.roots = list(dict.fromkeys([*before.roots, *also]))
    before.look_for_listings()
    return before


def _check(config: ForgetConfig, output: str, known: identity.Known, work: Work) -> None:
    """Names that no table knows were forgotten before, or stand in a page or a file; all others are mistakes."""
    memory = Forgotten.load(output)
    unknown = {}
    for kind, names in (("asset", config.asset), ("uri", config.uri)):
        told = set(names) - set(known.of(kind, names)[kind].to_pylist())
        unknown[kind] = [name for name in told if not memory.holds(kind, name)]
    if any(unknown.values()) and not _pass(work)[1]:
        identity.check_known(known, unknown["asset"], unknown["uri"])


def _marks(names: Names) -> list[tuple[str, str]]:
    # The address of a Parquet cell is a row number, and that of a tar's member a place in it, which may be another
    # image's tomorrow; its digest is remembered.
    own = {"asset": names.assets, "uri": names.uris, "digest": names.digests}
    return [
        (kind, value)
        for kind, values in own.items()
        for value in values
        if kind == "digest" or not re.search("#(row|offset)=", value)
    ]


def _pass(work: Work, apply: Apply = None) -> tuple[Counter[str], list[str]]:
    """Go through everything. Returns what was found, by kind, and where."""
    everything = [place for root in work.roots for place in places(root)]
    progress = Progress("forget" if apply else "search", len(everything), PROGRESS_SECONDS, unit="file")
    counts: Counter[str] = Counter()
    where = []
    for place in everything:
        if place.is_pending:
            found = pending.clean(place.address, work.names, apply)
        else:
            found = _table(place, work.names, apply) if place.paths else _file(place, work, apply)
        if found:
            counts[place.kind] += found
            where.append(place.address)
        progress.add(1)
    progress.close()
    return counts, where


def _table(place: Place, names: Names, apply: Apply) -> int:
    found = delta.look(place.address, list(place.paths), names)
    if apply and (found.places or found.statistics):
        delta.clean(place.address, list(place.paths), found, names, apply)
    return found.places


def _file(place: Place, work: Work, apply: Apply) -> int:
    covering = work.covering(place)
    names = names_below(work.names, covering, place.path)
    # Where a list says whose files are whose, names that look alike say nothing.
    own = any(one.is_of_image(place.path) for one in covering)
    if own or (not covering and files.is_of_image(place.path, work.names)):
        if apply:
            apply()
            storage.remove(place.address)
        return 1
    if place.path.endswith(".parquet"):
        found = parquet.look(place.address, names)
        if apply and found:
            apply()
            parquet.without(place.address, place.address, names)
        return found.rows + found.cells
    data = storage.read_bytes(place.address)
    if not files.mentions(place.path, data, names):
        return 0
    clean = files.cleaner(place.path)
    if clean is not None and apply:
        apply()
        storage.write_bytes(place.address, clean(data, names))
    return 1


def _summary(config: ForgetConfig, work: Work, counts: Counter[str], left: Iterable[str]) -> dict[str, Any]:
    return {
        "images": len(work.names.assets),
        "dry_run": config.dry_run,
        "removed": dict(sorted(counts.items())),
        "remembered": config.remember and not config.dry_run,
        "unreachable": work.unreachable.lines(),
        "left": list(left),
        "output": storage.absolute(config.output),
    }
