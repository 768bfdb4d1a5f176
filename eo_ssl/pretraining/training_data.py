"""The bridge from corpora to training: what was selected, opened as items with their contracts, pool and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eo_ssl.corpus import Corpus
from eo_ssl.curation import DynamicConfig
from eo_ssl.errors import UserError, suggest_nearest
from eo_ssl.image_metadata import INDEX_COLUMNS, read_index_metadata
from eo_ssl.manifest import Manifest, require
from eo_ssl.pairing import read_pairs
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.chosen_rows import Named, keep_within_subsets, weigh_items
from eo_ssl.pretraining.items import Items, Pairs, Places, Tiles
from eo_ssl.pretraining.sampler import Rows
from eo_ssl.pretraining.tile_source import TileSource, tell_places

COLUMNS = (
    *("split", "benchmark_split", "label", "label_name", "pixels_sha256", "location_id", "product_id"),
    *INDEX_COLUMNS,
)
Kind = Literal["tiles", "pairs", "places", "drawn_places"]
Paths = Sequence[Path] | Path


@dataclass(frozen=True, slots=True)
class DataSelection:
    """Which items of which corpora to train on."""

    corpora: tuple[Path, ...]
    """Folders that ingest made."""
    streams: tuple[str, ...] | None = None
    """Names of streams; None for all, which then must agree in sensor, quantity and size."""
    bands: tuple[str, ...] | None = None
    """Bands in the encoder's input order; None for those of the first stream."""
    subsets: tuple[Path, ...] = ()
    """Folders that curate made, each of one stream; a stream without one is used whole."""
    split: Literal["train", "all"] = "train"
    """Rows to use; test items of a benchmark are left out of both."""
    kind: Kind = "tiles"
    """What an item is: a tile, a pair of tiles on the same ground, or a place with several dates, fixed or drawn."""
    pairs: Path | None = None
    """Folder that pair made, for pairs."""
    dates: int = 2
    """Dates of an item, for places."""
    columns: tuple[str, ...] = ()
    """Columns of the index that pruning selects by."""

    @classmethod
    def of(
        cls,
        corpora: Paths,
        streams: Sequence[str] | None,
        bands: Sequence[str] | None,
        subsets: Paths | None,
        prune: DynamicConfig | None,
        *rest: Any,
    ) -> DataSelection:
        """The selection of a command line, where one of something may stand for a list of one, and none for all."""
        named = (_as_tuple(corpora), _as_tuple(streams) or None, _as_tuple(bands) or None, _as_tuple(subsets))
        return replace(cls(*named, *rest), columns=() if prune is None else prune.method.columns)

    def describe(self) -> dict[str, Any]:
        """What of it enters the configuration of a run beside the data."""
        return {"split": self.split, "items": self.kind, "dates": self.dates}


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything a run learns from, and what it is allowed to be judged on while it trains."""

    items: Items
    """What batches are drawn from."""
    pool: Rows
    """int64 [n], items to train on."""
    classes: npt.NDArray[np.int64]
    """int64 [N], class of each item by the label's name of its first tile; -1 without label."""
    held_out: Rows
    """int64 [m], items of the validation split."""
    inputs: dict[str, str]
    """Fingerprints of corpora, subsets and pairs."""
    left_out: int
    """Tiles left out because a benchmark tests on them."""
    identities: Rows
    """int64 [N], equal for items that are exact duplicates: all pixels of their tiles are equal."""
    licences: list[dict[str, Any]]
    """Licence and attribution of each card, and whether it is non-commercial: the encoder carries them."""
    weights: npt.NDArray[np.float32] | None = None
    """float32 [n], how often each of the pool is to come up, as subsets weigh its tiles on average; None for equally
    often."""
    columns: pa.Table | None = None
    """The columns of the index that were asked for, of the first tile of each item: N lines; None without any."""

    @property
    def stream_names(self) -> list[str]:
        """Corpus streams behind the items, in the order of their rows."""
        return [reader.stream.name for source in self.items.sources.values() for reader in source.readers]


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def open_training_data(selection: DataSelection) -> TrainingData:
    """Open what was selected, refusing by name whatever does not fit together.

    Raises:
        UserError: a corpus named twice or without a wanted stream, an unknown or empty stream, streams or bands that do
            not agree, a subset or pairs of another corpus or rows outside the training split, nothing to train on.
    """
    corpora = [Corpus.open(path) for path in selection.corpora]
    if len({corpus.fingerprint for corpus in corpora}) < len(corpora):
        raise UserError(
            f"expected each corpus once, got {', '.join(str(corpus.root) for corpus in corpora)}: name it once"
        )
    made = {path: require(path, "curate") for path in selection.subsets}
    paired = None if selection.pairs is None else require(selection.pairs, "pair")
    if (selection.kind == "pairs") != (paired is not None):
        raise UserError(
            f"expected a folder of pairs with items pairs and only then, got items {selection.kind} and pairs"
            f" {selection.pairs}: make pairs with `eo-ssl pair` and name them with --pairs, or leave them out"
        )
    for path, manifest in [
        *made.items(),
        *([] if paired is None or selection.pairs is None else [(selection.pairs, paired)]),
    ]:
        corpora = _with_snapshot(corpora, path, manifest)
    roles = _streams_by_role(corpora, selection)
    opened = {role: _OpenStream.of(named, selection, made) for role, named in roles.items()}
    for path in made:
        if not any(path in stream.subsets for stream in opened.values()):
            raise UserError(
                "expected a subset of a stream that is trained on,"
                f" got {path} of {made[path].config['stream']}: leave it out"
            )
    items = _items(opened, selection)
    members = {role: items.members(role, np.arange(len(items))) for role in opened}  # [N, dates]
    pool = np.flatnonzero(np.all([opened[role].usable[rows].all(axis=1) for role, rows in members.items()], axis=0))
    if not len(pool):
        raise UserError(
            f"expected {selection.kind} in the {selection.split} split of"
            f" {', '.join(name for named in roles.values() for _, name in named)}, got none:"
            " ingest more products or raise the share of train"
        )
    held_out = np.flatnonzero(
        np.all([opened[role].held_out[rows].all(axis=1) for role, rows in members.items()], axis=0)
    )
    first = next(iter(opened))
    named_pairs = (
        [] if paired is None or selection.pairs is None else [(f"pairs {selection.pairs.name}", paired.fingerprint)]
    )
    return TrainingData(
        items=items,
        pool=pool.astype(np.int64),
        classes=opened[first].classes[members[first][:, 0]],
        held_out=held_out.astype(np.int64),
        inputs=_numbered([(f"corpus {corpus.root.name}", corpus.fingerprint) for corpus in corpora])
        | _numbered([(f"subset {path.name}", manifest.fingerprint) for path, manifest in made.items()])
        | dict(named_pairs),
        left_out=sum(int(stream.tested.sum()) for stream in opened.values()),
        identities=_joined_identities([opened[role].identities[rows] for role, rows in members.items()]),
        licences=[licence for corpus in corpora for licence in corpus.licences()],
        weights=weigh_items([opened[role].weights[rows[pool]] for role, rows in members.items()]),
        columns=opened[first].columns.take(pa.array(members[first][:, 0])) if selection.columns else None,
    )


@dataclass(frozen=True, slots=True)
class _OpenStream:
    """One stream of the items: its tiles, its contract, and what the index knows of each tile."""

    source: TileSource
    contract: Preprocessing
    subsets: tuple[Path, ...]
    usable: npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float32]
    held_out: npt.NDArray[np.bool_]
    tested: npt.NDArray[np.bool_]
    classes: npt.NDArray[np.int64]
    identities: Rows
    locations: Rows
    moments: Rows
    columns: pa.Table

    @classmethod
    def of(cls, named: Named, selection: DataSelection, made: dict[Path, Manifest]) -> _OpenStream:
        """Join the corpus streams `named` and read their index."""
        bands = selection.bands if selection.kind != "pairs" else None
        wanted = list(dict.fromkeys([*COLUMNS, *selection.columns]))
        table = pa.concat_tables([corpus.index(name, columns=wanted) for corpus, name in named])
        source = TileSource(
            [corpus.stream(name) for corpus, name in named],
            bands=bands,
            metadata=read_index_metadata(table),
        )
        tested = _equal(table["benchmark_split"], "test")
        bounds = np.stack([table[name].to_numpy() for name in ("xmin", "ymin", "xmax", "ymax")], axis=1)
        usable = ~tested & (_equal(table["split"], "train") | (selection.split == "all"))
        subsets = {
            path: manifest
            for path, manifest in made.items()
            if any((c.fingerprint, name) == (manifest.inputs["corpus"], manifest.config["stream"]) for c, name in named)
        }
        labelled = table["label"].to_numpy() >= 0
        classes = np.full(len(labelled), -1, dtype=np.int64)
        classes[labelled] = rank_values(table["label_name"].filter(pa.array(labelled)))
        usable, weights = keep_within_subsets(usable, named, source.offsets, subsets)
        # A set that kept no dates still tells its acquisitions apart, in the order of its products.
        moments = pc.if_else(pc.equal(table["datetime"], ""), table["product_id"], table["datetime"])
        return cls(
            source=source,
            contract=_contract(named, source),
            subsets=tuple(subsets),
            usable=usable,
            weights=weights,
            held_out=_equal(table["split"], "val") & ~tested,
            tested=tested,
            classes=classes,
            identities=rank_values(table["pixels_sha256"]),
            locations=tell_places(rank_values(table["location_id"]), bounds),
            moments=rank_values(moments),
            columns=table.select(list(selection.columns)),
        )


def rank_values(column: pa.ChunkedArray) -> Rows:
    """Numbers in the place of values, equal for equal ones and in their order from 0: int64 [n].

    A row costs 8 bytes so, where the text or hash itself would be a Python object of a hundred.
    """
    ranks: Rows = pc.rank(column, tiebreaker="dense").to_numpy().astype(np.int64)
    return ranks - 1


def _equal(column: pa.ChunkedArray, value: str) -> npt.NDArray[np.bool_]:
    """Whether each value is `value`; False for null: [n]."""
    return np.asarray(pc.fill_null(pc.equal(column, value), False))


def _streams_by_role(corpora: list[Corpus], selection: DataSelection) -> dict[str, Named]:
    """Corpus streams behind each stream of the items: `tile`, or the two of a pair: `s1` and `s2`, or `a` and `b`."""
    if selection.pairs is None:
        return {"tile": _named_streams(corpora, selection.streams)}
    if selection.streams or selection.bands:
        raise UserError(
            "expected no streams and bands for pairs, which name their streams and use all bands of each, got some:"
            " leave them out, or ingest and pair streams of these bands"
        )
    report = read_pairs(selection.pairs, expected=require(selection.pairs, "pair").fingerprint).report
    (corpus,) = [corpus for corpus in corpora if corpus.fingerprint == report.corpus_fingerprint]
    names = (report.stream_a, report.stream_b)
    if names[0] == names[1]:
        return {"tile": [(corpus, names[0])]}
    optical = [corpus.streams[name].quantity.is_reflectance for name in names]
    roles = ["s2" if is_optical else "s1" for is_optical in optical] if optical[0] != optical[1] else ["a", "b"]
    return {role: [(corpus, name)] for role, name in zip(roles, names, strict=True)}


def _items(opened: dict[str, _OpenStream], selection: DataSelection) -> Items:
    """The items that were selected, over the streams that were opened."""
    sources = {role: stream.source for role, stream in opened.items()}
    contracts = {role: stream.contract for role, stream in opened.items()}
    if selection.kind == "tiles":
        return Tiles(sources["tile"], contracts["tile"])
    if selection.kind != "pairs":
        stream, drawn = opened["tile"], selection.kind == "drawn_places"
        known = stream.source, stream.contract, stream.locations, stream.moments
        return Places(*known, dates=selection.dates, usable=stream.usable | stream.held_out, drawn=drawn)
    if selection.pairs is None:
        raise TypeError("pairs were checked to be there")
    kept = read_pairs(selection.pairs).kept
    return Pairs(sources, contracts, kept["row_a"].to_numpy(), kept["row_b"].to_numpy())


def _joined_identities(parts: list[Rows]) -> Rows:
    """Identity of each item from those of its tiles [N, dates] of each stream: int64 [N], for one tile its own."""
    tiles = np.concatenate(parts, axis=1)
    return tiles[:, 0] if tiles.shape[1] == 1 else np.unique(tiles, axis=0, return_inverse=True)[1].reshape(-1)


def _numbered(inputs: list[tuple[str, str]]) -> dict[str, str]:
    """Fingerprints by name; folders of one name are told apart by their order, so that none hides another."""
    found: dict[str, str] = {}
    for name, content in inputs:
        earlier = sum(key == name or key.startswith(f"{name} (") for key in found)
        found[f"{name} ({earlier + 1})" if earlier else name] = content
    return found


def _named_streams(corpora: list[Corpus], wanted: Sequence[str] | None) -> Named:
    """Each corpus with each of its streams that is wanted, in the order given."""
    there = [(corpus, name) for corpus in corpora for name in corpus.streams]
    names = sorted({name for _, name in there})
    for name in wanted or ():
        if name not in names:
            raise UserError(
                f"expected streams out of {', '.join(names) or 'no corpus'}, got '{name}'{suggest_nearest(name, names)}"
            )
    idle = [str(corpus.root) for corpus in corpora if wanted is not None and not set(wanted) & set(corpus.streams)]
    if idle:
        raise UserError(
            f"expected a stream of every corpus, got none of {', '.join(idle)} in {', '.join(wanted or ())}: leave that"
            " corpus out, or name its stream"
        )
    return [(corpus, name) for corpus, name in there if wanted is None or name in wanted]


def _with_snapshot(corpora: list[Corpus], path: Path, manifest: Manifest) -> list[Corpus]:
    """The corpora, with the one that the subset was made from at the snapshot it was made from."""
    origin, number = manifest.inputs.get("corpus"), manifest.config.get("snapshot")
    if any(corpus.fingerprint == origin for corpus in corpora):
        return corpora
    for index, corpus in enumerate(corpora):
        if number is not None and number < corpus.snapshot:
            older = Corpus.open(corpus.root, snapshot=number)
            if older.fingerprint == origin:
                return [*corpora[:index], older, *corpora[index + 1 :]]
    raise UserError(
        f"expected {path} to be made of one of the corpora {', '.join(str(c.root) for c in corpora)}, got one of"
        " another corpus: make it of one of these, or name that corpus"
    )


def _contract(named: Named, source: TileSource) -> Preprocessing:
    """Preprocessing from the training pixels of all streams together, each weighing by its valid pixels."""
    final = source.quantity.in_db_if_power
    parts = [(corpus.streams[name], corpus.statistics(name, final)) for corpus, name in named]
    return Preprocessing.of_streams(parts, bands=source.bands)
