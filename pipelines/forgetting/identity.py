"""Which image is meant: everything that it was ever called in the output, and what else is the same image."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.config import UsageError
from pipelines.corpus.read import open_parquet
from pipelines.forgetting.names import LONGEST, Names, flat, stem

COLUMNS = ("asset", "uri", "digest", "sequence")
# Where a name can be mentioned: not within a longer word or path; see `names`. In the syntax of RE2.
_BEFORE = r"(?:^|[^\w./%\-\x{80}-\x{10FFFF}])"
AT_ONCE = 50
MOST_NEAR = 200_000


@dataclass
class Subject:
    """names: of the image. same_bytes: assets that were not asked for and have the same bytes. kept_digests: how many
    earlier digests are those of other images too, and stay with them."""

    names: Names
    same_bytes: list[str] = field(default_factory=list)
    kept_digests: int = 0


class Known:
    """(asset, uri, digest, sequence) of every row of every version of every table, evidence included.

    They are read again for every question, file by file: memory holds a file's rows, and those that answer it.
    """

    schema = pa.schema([(name, pa.string()) for name in COLUMNS[:3]] + [(COLUMNS[3], pa.int64())])

    def __init__(self, output: str, paths: Iterable[str]) -> None:
        self._addresses = [
            storage.join(output, path)
            for path in paths
            if path.endswith(".parquet") and "/_delta_log/" not in path and not path.split("/")[-1].startswith("data-")
        ]

    def files(self) -> Iterator[pa.Table]:
        for address in self._addresses:
            file = open_parquet(address)
            try:
                there = [column for column in COLUMNS if column in file.schema_arrow.names]
                if "asset" not in there or not {"uri", "digest"} & set(there):
                    continue
                table = file.read(columns=there)
            finally:
                file.close()
            nulls = {f.name: pa.nulls(table.num_rows, f.type) for f in self.schema if f.name not in there}
            columns = [nulls[f.name] if f.name in nulls else table[f.name].cast(f.type) for f in self.schema]
            yield pa.table(columns, schema=self.schema)

    def where(self, choose: Callable[[pa.Table], pa.ChunkedArray]) -> pa.Table:
        """The rows that `choose` gives true for."""
        return pa.concat_tables([self.schema.empty_table(), *(rows.filter(choose(rows)) for rows in self.files())])

    def of(self, column: str, values: Iterable[str]) -> pa.Table:
        wanted = pa.array(sorted(values), pa.string())
        if not len(wanted):
            return self.schema.empty_table()
        return self.where(lambda rows: pc.is_in(rows[column], value_set=wanted))

    def texts(self, column: str, choose: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> set[str]:
        """The distinct texts of a column that `choose` gives true for."""
        found: set[str] = set()
        for rows in self.files():
            distinct = pc.unique(pc.drop_null(rows[column]))
            found.update(distinct.filter(choose(distinct)).to_pylist())
        return found


def identify(known: Known, assets: Sequence[str], uris: Sequence[str]) -> Subject:
    """Everything the images are called. Names that no row knows stay in the answer as they were given."""
    wanted = {*assets, *_texts(known.of("uri", uris)["asset"])}
    current = _newest_digest(known.of("asset", wanted))
    bytes_now = set(current.values())
    alike = set(_texts(known.of("digest", bytes_now)["asset"])) - wanted
    newest = _newest_digest(known.of("asset", alike))
    twins = sorted(asset for asset, digest in newest.items() if digest in bytes_now)
    everything = wanted | set(twins)
    theirs = known.of("asset", everything)
    older = set(_texts(theirs["digest"])) - bytes_now
    sharing = known.of("digest", older)
    shared = set(_texts(sharing.filter(pc.invert(_among(sharing["asset"], everything)))["digest"]))
    names = Names(everything, {*uris, *_texts(theirs["uri"])}, bytes_now | (older - shared))
    holding = _any_of(f"{_BEFORE}{re.escape(name)}" for name in names.anywhere if len(name) < LONGEST)
    alike_called = _any_of(f"(?:^|/){re.escape(form)}(?:\\.[^./]*)?$" for a in everything for form in flat(stem(a)))
    names.others = (known.texts("asset", holding) | known.texts("uri", holding)) - names.all
    names.rivals = known.texts("asset", alike_called) - names.all
    return Subject(names, twins, len(shared))


def check_known(known: Known, assets: Sequence[str], uris: Sequence[str]) -> None:
    """Raises UsageError for names that nothing in the output knows, with the nearest that it does."""
    for field_name, names in (("asset", assets), ("uri", uris)):
        for name in sorted(set(names)):
            near = difflib.get_close_matches(name, sorted(_some(known, field_name)), 1, 0.6)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(
                f"--{field_name}: nothing in the output is called {name!r}{hint} (an asset is the image's path below "
                "the corpus, a uri its whole address, both as the label table has them)"
            )


def _some(known: Known, column: str) -> set[str]:
    found: set[str] = set()
    for rows in known.files():
        found.update(_texts(rows[column].slice(0, MOST_NEAR)))
        if len(found) >= MOST_NEAR:
            break
    return found


def _newest_digest(rows: pa.Table) -> dict[str, str]:
    """The digest that every asset had last."""
    there = rows.filter(pc.is_valid(rows["digest"]))
    order = pc.sort_indices(there, sort_keys=[("sequence", "ascending", "at_start")])
    there = there.take(order)
    return dict(zip(there["asset"].to_pylist(), there["digest"].to_pylist(), strict=True))


def _any_of(patterns: Iterable[str]) -> Callable[[pa.ChunkedArray], pa.ChunkedArray]:
    """Whether a text fits one of the patterns. A few hundred at a time: larger ones are refused."""
    told = list(patterns)
    groups = ["|".join(told[start : start + AT_ONCE]) for start in range(0, len(told), AT_ONCE)]

    def fits(texts: pa.ChunkedArray) -> pa.ChunkedArray:
        found = pa.repeat(False, len(texts))
        for pattern in groups:
            found = pc.or_(found, pc.match_substring_regex(texts, pattern))
        return found

    return fits


def _among(column: pa.ChunkedArray, values: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))


def _texts(column: pa.ChunkedArray) -> list[str]:
    return [str(value) for value in pc.unique(column).to_pylist() if value is not None]
