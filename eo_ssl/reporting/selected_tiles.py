"""What a selection did to every tile that it chose from, as its tables say: how often each comes up, and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from eo_ssl.corpus import read_parquet
from eo_ssl.curation import CurationReport

Rows = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
PLACE = ("x", "y")  # columns that tables of earlier versions do not have
LIFT_EDGES = (0.5, 1.0, 2.0)
LIFT_NAMES = ("never", "up to 0.5×", "0.5 to 1×", "1 to 2×", "over 2×")
LIFT_WORDS = "× says how many times as often a tile comes up as by a uniform draw"


@dataclass(frozen=True, slots=True)
class SelectedTiles:
    """The tiles that a selection chose from, by their rows."""

    rows: Rows
    "int64 [n], ascending"
    weights: FloatArray
    "float64 [n], how often each comes up, in times the mean of those that do or in times a pass; 0 never"
    clusters: Rows
    "int64 [n], -1 where nothing was clustered"
    places: FloatArray
    "float64 [n, 2], on the map of the embeddings; NaN for tiles that are not on it"
    reasons: Mapping[str, Rows]
    "indices into these of the tiles left out, by why, the most frequent first"
    left_out: Mapping[str, Rows]
    "rows that were not even chosen from, by why"

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def drawn(self) -> Rows:
        """Indices of the tiles that come up."""
        return np.flatnonzero(self.weights > 0).astype(np.int64)

    @property
    def weighed(self) -> bool:
        """Whether some tiles come up more often than others."""
        return len(np.unique(self.weights[self.drawn])) > 1

    @property
    def lift(self) -> FloatArray:
        """How many times as often each comes up as by a uniform draw: float64 [n], of mean 1."""
        lift: FloatArray = self.weights / max(float(self.weights.mean()), np.finfo(np.float64).tiny)
        return lift


def classify_lift(lift: FloatArray) -> Rows:
    """Number of the class of `LIFT_NAMES` that each of ``lift`` is in: int64 [n]; 1 up to rounding is 1 to 2."""
    classes = 1 + np.searchsorted(LIFT_EDGES, lift * (1 + 1e-9), side="right")
    return np.where(lift > 0, classes, 0).astype(np.int64)


def name_classes(classes: Rows, *, weighed: bool) -> dict[int, str]:
    """Name of each class that is there; where tiles are picked, not weighed, only two: kept and left out."""
    there = np.unique(classes).tolist()
    if weighed:
        return {number: LIFT_NAMES[number] for number in there}
    return {number: "kept" if number else "left out" for number in there}


def read_subset_tiles(folder: Path, report: CurationReport) -> SelectedTiles:
    """Read what ``eo-ssl curate`` wrote of every tile."""
    remedy = "remove the folder and curate again"
    kept = read_parquet(folder / "subset.parquet", ["row", "cluster", "weight"], optional=PLACE, remedy=remedy)
    dropped = read_parquet(folder / "dropped.parquet", ["row", "cluster", "reason"], optional=PLACE, remedy=remedy)
    known = pc.is_in(dropped["reason"], pa.array([*report.reasons]))
    away = dropped.filter(pc.invert(known))
    return _collect(
        pa.concat_tables([kept, dropped.filter(known)], promote_options="default"),
        left_out={why: _read_rows(part) for why, part in _group_reasons(away).items()},
    )


def read_schedule_tiles(folder: Path, events: Sequence[CurationReport]) -> tuple[SelectedTiles, list[int]] | None:
    """Read the tables of the ``events`` of a schedule; None where one is not there.

    Returns:
        The tiles as the last event left them, their weights how often each was to come up in a pass, added up over all
        events; and how many no event had let come up, after each.
    """
    paths = [folder / f"event_{event.event:04d}.parquet" for event in events if event.event is not None]
    if not paths or len(paths) < len(events) or not all(path.is_file() for path in paths):
        return None
    usage, never = np.zeros(0), []
    for path in paths:
        columns = ["row", "cluster", "weight", "reason"]
        table = read_parquet(path, columns, optional=PLACE, remedy="train again")
        weights = table["weight"].to_numpy().astype(np.float64)
        usage = weights + (usage if len(usage) else 0.0)
        never.append(int((usage == 0).sum()))
    place = table.schema.get_field_index("weight")
    tiles = _collect(table.set_column(place, "weight", pa.array(usage)), left_out={})
    return tiles, never


def _collect(table: pa.Table, *, left_out: Mapping[str, Rows]) -> SelectedTiles:
    """The tiles of a table in the order of their rows; what it does not say of some is null."""
    table = table.take(pc.sort_indices(table["row"]))
    weights = pc.fill_null(table["weight"], 0).to_numpy().astype(np.float64)
    places = np.full((len(table), 2), np.nan)
    for axis, name in enumerate(PLACE):
        if name in table.column_names:
            places[:, axis] = table[name].to_numpy()
    gone = table.append_column("index", pa.array(np.arange(len(table)))).filter(pa.array(weights == 0))
    return SelectedTiles(
        rows=_read_rows(table),
        weights=weights,
        clusters=pc.fill_null(table["cluster"], -1).to_numpy().astype(np.int64),
        places=places,
        reasons={why: _read_rows(part, "index") for why, part in _group_reasons(gone).items()},
        left_out=left_out,
    )


def _group_reasons(table: pa.Table) -> dict[str, pa.Table]:
    """The lines of a table by what ``reason`` says, the most frequent first."""
    counts = {str(item["values"]): item["counts"] for item in table["reason"].value_counts().to_pylist()}
    names = sorted(counts, key=lambda name: (-counts[name], name))
    return {name: table.filter(pc.equal(table["reason"], name)) for name in names}


def _read_rows(table: pa.Table, name: str = "row") -> Rows:
    rows: Rows = table[name].to_numpy().astype(np.int64)
    return rows
