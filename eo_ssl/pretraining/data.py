"""The bridge from corpora to training: chosen streams, bands and rows behind one row number, and what normalises them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from eo_ssl.corpus import Corpus
from eo_ssl.errors import UserError, nearest
from eo_ssl.manifest import Manifest, require
from eo_ssl.preprocessing import Preprocessing, StreamLike
from eo_ssl.pretraining.sampler import Rows
from eo_ssl.sensors import Quantity, sensor

COLUMNS = ("split", "benchmark_split", "label", "label_name", "pixels_sha256")


class NamedStream(StreamLike, Protocol):
    """What is needed of a corpus stream."""

    @property
    def name(self) -> str:
        """Of the stream in its corpus."""
        ...


class Reader(Protocol):
    """What is needed of the reader of a corpus stream."""

    @property
    def stream(self) -> NamedStream: ...  # noqa: D102
    def __len__(self) -> int: ...
    def read(  # noqa: D102
        self, rows: Rows, *, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]: ...


class TileSource:
    """Several streams of one sensor, quantity and size behind one row number, bands chosen by name.

    Streams may differ in ground sampling distance and may hold more bands than are used.
    """

    def __init__(self, readers: Sequence[Reader], *, bands: Sequence[str] | None = None) -> None:
        """Join readers; row numbers of the second start where those of the first end.

        Args:
            readers: at least one, each with at least one tile.
            bands: the bands wanted, in that order; None for those of the first stream, which all others must hold.

        Raises:
            UserError: for no or an empty stream, for streams that do not fit together, for a band that one lacks.
        """
        if not readers:
            raise UserError("expected at least one stream of tiles, got none: name a corpus that holds one")
        first = readers[0].stream
        for reader in readers:
            stream = reader.stream
            if len(reader) == 0:
                raise UserError(f"expected tiles in stream {stream.name}, got none: ingest products or leave it out")
            for field in ("sensor", "quantity", "size_px"):
                if getattr(stream, field) != getattr(first, field):
                    raise UserError(
                        f"expected streams of one sensor, quantity and size, got {field} {getattr(first, field)} in"
                        f" {first.name} and {getattr(stream, field)} in {stream.name}: choose streams that agree"
                    )
        self.readers = tuple(readers)
        self.sensor, self.quantity, self.size_px = first.sensor, Quantity(first.quantity), first.size_px
        self.bands = tuple(first.bands) if bands is None else sensor(first.sensor).resolve_all(bands)
        self._channels = [self._find(reader.stream) for reader in readers]
        self.offsets = np.cumsum([0, *(len(reader) for reader in readers)])  # [streams + 1]
        self.gsd_m = (min(r.stream.gsd_m for r in readers), max(r.stream.gsd_m for r in readers))
        self._buffers: dict[int, npt.NDArray[np.float32]] = {}

    def __len__(self) -> int:
        """Tiles of all streams."""
        return int(self.offsets[-1])

    def read(self, rows: Rows) -> Tensor:
        """Physical values of the tiles: [n, C, H, W] float32, NaN where invalid.

        The result is a buffer of this object that the next call with the same number of rows overwrites.
        """
        out = self._buffer(-1, len(rows), len(self.bands))
        part = np.searchsorted(self.offsets, rows, side="right") - 1  # [n], stream of each row
        for index in np.unique(part):
            reader, channels = self.readers[index], self._channels[index]
            at = np.flatnonzero(part == index)
            local = rows[at] - self.offsets[index]
            direct = len(at) == len(rows) and channels == list(range(len(reader.stream.bands)))
            if direct:
                reader.read(local, out=out)
                continue
            raw = self._buffer(int(index), len(rows), len(reader.stream.bands))[: len(at)]
            reader.read(local, out=raw)
            for channel, wanted in enumerate(channels):
                out[at, channel] = raw[:, wanted]
        return torch.from_numpy(out)

    def _buffer(self, key: int, n: int, channels: int) -> npt.NDArray[np.float32]:
        """Memory of stream `key` (-1: the result), kept between calls: fresh pages cost four times the copy."""
        shape = (n, channels, self.size_px, self.size_px)
        if key not in self._buffers or self._buffers[key].shape != shape:
            self._buffers[key] = torch.empty(shape, dtype=torch.float32).numpy()  # aligned for fast copies
        return self._buffers[key]

    def _find(self, stream: NamedStream) -> list[int]:
        have = list(stream.bands)
        absent = [band for band in self.bands if band not in have]
        if absent:
            raise UserError(
                f"expected the bands {', '.join(self.bands)} in stream {stream.name}, got none of {', '.join(absent)}:"
                " name bands that all streams hold"
            )
        return [have.index(band) for band in self.bands]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which tiles of which corpora to train on."""

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


@dataclass(frozen=True, slots=True)
class Material:
    """Everything a run learns from, and what it is allowed to be judged on while it trains."""

    source: TileSource
    pool: Rows
    """int64 [n], rows of the source to train on."""
    preprocessing: Preprocessing
    """From the training statistics of all streams; power is normalised in dB."""
    classes: npt.NDArray[np.int64]
    """int64 [N], class of each row of the source by its label's name; -1 without label."""
    held_out: Rows
    """int64 [m], rows of the validation split."""
    inputs: dict[str, str]
    """Fingerprints of corpora and subsets."""
    left_out: int
    """Tiles left out because a benchmark tests on them."""
    identities: npt.NDArray[np.object_]
    """[N], sha256 (bytes) of the pixels: equal for tiles that are exact duplicates."""
    licences: list[dict[str, Any]]
    """Licence and attribution of each card, and whether it is non-commercial: the encoder carries them."""


def gather(choice: Choice) -> Material:
    """Open what was chosen, refusing by name whatever does not fit together.

    Raises:
        UserError: a corpus named twice or without a wanted stream, an unknown stream, an empty one, streams or bands
            that do not agree, a subset of another corpus or with rows outside the training split, no tile to train on.
    """
    corpora = [Corpus.open(path) for path in choice.corpora]
    if len({corpus.fingerprint for corpus in corpora}) < len(corpora):
        raise UserError(
            f"expected each corpus once, got {', '.join(str(corpus.root) for corpus in corpora)}: name it once"
        )
    subsets = {path: require(path, "curate") for path in choice.subsets}
    for path, manifest in subsets.items():
        corpora = _with_snapshot(corpora, path, manifest)
    named = _named_streams(corpora, choice.streams)
    source = TileSource([corpus.stream(name) for corpus, name in named], bands=choice.bands)
    tables = [corpus.index(name, columns=list(COLUMNS)) for corpus, name in named]
    column = {key: np.concatenate([table[key].to_numpy() for table in tables]) for key in tables[0].column_names}
    tested = column["benchmark_split"] == "test"
    usable = ~tested & ((column["split"] == "train") | (choice.split == "all"))
    pool = np.flatnonzero(_within_subsets(usable, named, source.offsets, subsets)).astype(np.int64)
    if not len(pool):
        raise UserError(
            f"expected tiles in the {choice.split} split of {', '.join(name for _, name in named)}, got none: ingest more"
            " products or raise the share of train"
        )
    labelled = column["label"] >= 0
    classes = np.full(len(labelled), -1, dtype=np.int64)
    classes[labelled] = np.unique(column["label_name"][labelled], return_inverse=True)[1]
    return Material(
        source=source,
        pool=pool,
        preprocessing=_contract(named, source),
        classes=classes,
        held_out=np.flatnonzero((column["split"] == "val") & ~tested).astype(np.int64),
        inputs=_numbered([(f"corpus {corpus.root.name}", corpus.fingerprint) for corpus in corpora])
        | _numbered([(f"subset {path.name}", manifest.fingerprint) for path, manifest in subsets.items()]),
        left_out=int(tested.sum()),
        identities=column["pixels_sha256"],
        licences=[licence for corpus in corpora for licence in corpus.licences()],
    )


Named = list[tuple[Corpus, str]]


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
                f"expected streams out of {', '.join(names) or 'no corpus'}, got '{name}'{nearest(name, names)}"
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
        f"expected the subset {path} to be of one of the corpora {', '.join(str(c.root) for c in corpora)}, got one of"
        " another corpus: curate one of these, or name that corpus"
    )


def _within_subsets(
    usable: npt.NDArray[np.bool_], named: Named, offsets: npt.NDArray[np.int64], subsets: dict[Path, Manifest]
) -> npt.NDArray[np.bool_]:
    """`usable` [N], less the rows that the subset of their stream does not keep."""
    kept = usable.copy()
    for path, manifest in subsets.items():
        stream = manifest.config["stream"]
        found = [i for i, (c, name) in enumerate(named) if (c.fingerprint, name) == (manifest.inputs["corpus"], stream)]
        if not found:
            raise UserError(f"expected a subset of a stream that is trained on, got {path} of {stream}: leave it out")
        begin, end = offsets[found[0]], offsets[found[0] + 1]
        chosen = np.zeros(end - begin, dtype=bool)
        chosen[pq.read_table(path / "subset.parquet", columns=["row"])["row"].to_numpy()] = True
        beyond = int((chosen & ~usable[begin:end]).sum())
        if beyond:
            raise UserError(
                f"expected rows of the training split in the subset {path}, got {beyond} others: curate with --split train"
            )
        kept[begin:end] &= chosen
    return kept


def _contract(named: Named, source: TileSource) -> Preprocessing:
    """Preprocessing from the training pixels of all streams together, each weighing by its valid pixels."""
    quantity = source.quantity.in_db if source.quantity.is_power else source.quantity
    parts = [corpus.statistics(name, quantity) for corpus, name in named]
    place = [[stats.bands.index(band) for band in source.bands] for stats in parts]
    count = np.stack([stats.count[at] for stats, at in zip(parts, place, strict=True)]).astype(float)  # [streams, C]
    mean = np.stack([stats.mean[at] for stats, at in zip(parts, place, strict=True)])  # [streams, C]
    variance = np.stack([stats.std[at] ** 2 for stats, at in zip(parts, place, strict=True)])  # [streams, C]
    seen = count > 0
    total = np.maximum(count.sum(axis=0), 1)  # [C]
    pooled = np.where(seen, mean * count, 0).sum(axis=0) / total
    spread = np.where(seen, (variance + (mean - pooled) ** 2) * count, 0).sum(axis=0) / total
    return Preprocessing(
        sensor=source.sensor,
        quantity=source.quantity,
        bands=source.bands,
        convert=(f"{source.quantity.value}->{quantity.value}",) if quantity != source.quantity else (),
        range=source.quantity.plausible,
        clip=None,
        mean=tuple(float(x) for x in pooled),
        std=tuple(float(x) for x in np.sqrt(spread)),
        size_px=source.size_px,
        gsd_m=(float(source.gsd_m[0]), float(source.gsd_m[1])),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )
