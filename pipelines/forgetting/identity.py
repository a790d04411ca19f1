"""Which image is meant: everything that it was ever called in the output, and what else is the same image."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import storage
from pipelines.config import UsageError
from pipelines.corpus.read import open_parquet
from pipelines.forgetting.names import Names, holding

COLUMNS = ("asset", "uri", "digest", "sequence")


@dataclass
class Subject:
    """names: of the image. same_bytes: assets that were not asked for and have the same bytes. kept_digests: how many
    earlier digests are those of other images too, and stay with them."""

    names: Names
    same_bytes: list[str] = field(default_factory=list)
    kept_digests: int = 0


def known_rows(output: str, paths: Iterable[str]) -> pa.Table:
    """(asset, uri, digest, sequence) of every row of every version of every table, evidence included."""
    schema = pa.schema(
        [("asset", pa.string()), ("uri", pa.string()), ("digest", pa.string()), ("sequence", pa.int64())]
    )
    parts = [schema.empty_table()]
    for path in paths:
        name = path.rpartition("/")[2]
        if not name.endswith(".parquet") or "/_delta_log/" in path or name.startswith("data-"):
            continue
        file = open_parquet(storage.join(output, path))
        try:
            there = [column for column in COLUMNS if column in file.schema_arrow.names]
            if "asset" not in there or not {"uri", "digest"} & set(there):
                continue
            table = file.read(columns=there)
        finally:
            file.close()
        filled = [table[f.name].cast(f.type) if f.name in there else pa.nulls(table.num_rows, f.type) for f in schema]
        parts.append(pa.table(filled, schema=schema))
    return pa.concat_tables(parts)


def identify(rows: pa.Table, assets: Sequence[str], uris: Sequence[str]) -> Subject:
    """Everything the images are called. Names that no row knows stay in the answer as they were given."""
    named = rows.filter(pc.or_(_among(rows["asset"], assets), _among(rows["uri"], uris)))
    wanted = {*assets, *_texts(named["asset"])}
    current = _newest_digest(rows)
    bytes_now = {current[asset] for asset in wanted if asset in current}
    twins = sorted(asset for asset, digest in current.items() if digest in bytes_now and asset not in wanted)
    everything = wanted | set(twins)
    theirs = rows.filter(_among(rows["asset"], everything))
    others = rows.filter(pc.invert(_among(rows["asset"], everything)))
    older = set(_texts(theirs["digest"])) - bytes_now
    shared = older & set(_texts(others["digest"]))
    names = Names(everything, {*uris, *_texts(theirs["uri"])}, bytes_now | (older - shared))
    candidates = {*_texts(others["asset"]), *_texts(others["uri"])} - names.all
    names.others = holding(candidates, names.anywhere)
    return Subject(names, twins, len(shared))


def check_known(rows: pa.Table, assets: Sequence[str], uris: Sequence[str], unknown: Iterable[str]) -> None:
    """Raises UsageError for names that nothing in the output knows, with the nearest that it does."""
    for name in unknown:
        field_name = "asset" if name in assets else "uri"
        near = difflib.get_close_matches(name, _texts(rows[field_name])[:200_000], 1, 0.6)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(
            f"--{field_name}: nothing in the output is called {name!r}{hint} (an asset is the image's path below the "
            "corpus, a uri its whole address, both as the label table has them)"
        )


def _newest_digest(rows: pa.Table) -> dict[str, str]:
    """The digest that every asset had last."""
    there = rows.filter(pc.is_valid(rows["digest"]))
    order = pc.sort_indices(there, sort_keys=[("sequence", "ascending", "at_start")])
    there = there.take(order)
    return dict(zip(there["asset"].to_pylist(), there["digest"].to_pylist(), strict=True))


def _among(column: pa.ChunkedArray, values: Iterable[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))


def _texts(column: pa.ChunkedArray) -> list[str]:
    return [str(value) for value in pc.unique(column).to_pylist() if value is not None]
