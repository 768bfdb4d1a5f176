"""What a batch is drawn from: tiles, pairs of tiles on the same ground, or places with several dates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.sampler import Rows
from eo_ssl.pretraining.tile_source import TileSource


class Items(ABC):
    """Items of one or more streams; row i of every stream that `read` returns is item i."""

    sources: Mapping[str, TileSource]
    """Tiles of each stream."""
    contracts: Mapping[str, Preprocessing]
    """What each stream's encoder accepts."""
    dates: int = 1
    """Tiles of one item in each stream."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abstractmethod
    def members(self, stream: str, rows: Rows, *, seed: int | None = None) -> Rows:
        """Rows of the stream's source that make up items: int64 [n] -> int64 [n, dates].

        ``seed`` draws them where items have more tiles than are shown at once; None for the same ones each time.
        """

    def read(self, rows: Rows, *, seed: int | None = None) -> dict[str, Tensor]:
        """Physical values of the `members` of items by stream: [n, dates, C, S, S] float32, NaN where invalid.

        The result is memory that the next call with the same number of rows overwrites.
        """
        tiles = {}
        for stream, source in self.sources.items():
            members = self.members(stream, rows, seed=seed)
            tiles[stream] = source.read(members.reshape(-1)).reshape(*members.shape, *source.shape)
        return tiles

    def metadata(self, rows: Rows, *, seed: int | None = None) -> dict[str, Tensor]:
        """What is known of the `members` of items beside their pixels, by stream: [n, dates, 5] float32.

        Columns as `image_metadata` has them; NaN where a corpus does not say.
        """
        return {
            stream: torch.from_numpy(source.metadata[self.members(stream, rows, seed=seed)])
            for stream, source in self.sources.items()
        }


class Tiles(Items):
    """Every tile is an item, of the stream `tile`."""

    def __init__(self, source: TileSource, contract: Preprocessing) -> None:
        """Serve `source` behind `contract`."""
        self.sources, self.contracts = {"tile": source}, {"tile": contract}

    def __len__(self) -> int:
        """Number of tiles."""
        return len(self.sources["tile"])

    def members(self, stream: str, rows: Rows, *, seed: int | None = None) -> Rows:
        """The rows themselves: int64 [n, 1]."""
        return rows[:, None]


class Pairs(Items):
    """Pairs of tiles on the same ground: of two streams, or of one stream, whose tiles then are its two dates."""

    def __init__(
        self,
        sources: Mapping[str, TileSource],
        contracts: Mapping[str, Preprocessing],
        row_a: npt.NDArray[Any],
        row_b: npt.NDArray[Any],
    ) -> None:
        """Serve the pairs (row_a[i], row_b[i]) of the first and the second stream.

        Args:
            sources: by name; one for pairs within a stream.
            contracts: of the same names.
            row_a: int64 [n], rows of the first source.
            row_b: int64 [n], rows of the second, or of the only one.
        """
        self.sources, self.contracts = dict(sources), dict(contracts)
        first, second = row_a.astype(np.int64), row_b.astype(np.int64)
        if len(sources) == 1:
            self.dates = 2
            self._members = {next(iter(sources)): np.stack([first, second], axis=1)}
        else:
            names = list(sources)
            self._members = {names[0]: first[:, None], names[1]: second[:, None]}

    def __len__(self) -> int:
        """Number of pairs."""
        return len(next(iter(self._members.values())))

    def members(self, stream: str, rows: Rows, *, seed: int | None = None) -> Rows:
        """The stream's tiles of the pairs: int64 [n, 1], or [n, 2] within one stream."""
        return self._members[stream][rows]


class Places(Items):
    """Places seen at several dates: k tiles of one location, spread over all its dates."""

    def __init__(
        self,
        source: TileSource,
        contract: Preprocessing,
        locations: Rows,
        moments: Rows,
        *,
        dates: int,
        usable: npt.NDArray[np.bool_],
        drawn: bool = False,
    ) -> None:
        """Group the usable tiles of `source` by place.

        A place with n dates makes n // k items; item j holds its dates j, j + m, j + 2 m ... with m = n // k, so that
        the dates of an item lie as far apart as they can. Dates left over are not used. Drawn, it is one item, of which
        `members` shows any k dates.

        Args:
            source: the tiles.
            contract: of their stream.
            locations: int64 [N], equal for tiles of one `location_id`; places come in their order.
            moments: int64 [N], in the order of time; tiles of one place and moment count once, the first.
            dates: k, tiles of an item.
            usable: [N], tiles that may be part of an item.
            drawn: an item's dates are drawn anew for each seed, out of all dates of the place.

        Raises:
            UserError: fewer than two dates asked for, or no place that has as many.
        """
        if dates < 2:
            raise UserError(f"expected at least two dates of a place, got {dates}: raise --dates, or train on tiles")
        self.sources, self.contracts, self.dates = {"tile": source}, {"tile": contract}, dates
        found = _group_dates(locations, moments, usable)
        items = [_spread(one, dates)[: 1 if drawn else None] for one in found]
        self._members = np.concatenate([np.empty((0, dates), dtype=np.int64), *items])
        self._places = [one for one in found if len(one) >= dates] if drawn else None
        if not len(self._members):
            raise UserError(
                f"expected places with {dates} dates, got at most {max(map(len, found), default=0)} of a place:"
                " lower --dates, or ingest more dates"
            )

    def __len__(self) -> int:
        """Number of items."""
        return len(self._members)

    def members(self, stream: str, rows: Rows, *, seed: int | None = None) -> Rows:
        """The tiles of the places: int64 [n, dates].

        In the order of their dates; of drawn ones with a seed different dates, any as likely, in any order.
        """
        if self._places is None or seed is None:
            return self._members[rows]
        rng = np.random.default_rng(seed)
        shown = [rng.choice(self._places[row], self.dates, replace=False) for row in rows.tolist()]
        return np.array(shown, dtype=np.int64).reshape(-1, self.dates)


def require_places(items: Items, pool: Rows) -> None:
    """Refuse items of which none says where on Earth it lies.

    Raises:
        UserError: naming location.
    """
    first = next(iter(items.sources))
    lonlat = items.sources[first].metadata[items.members(first, pool), 1:3]  # [n, dates, 2]
    if not np.isfinite(lonlat).all(axis=-1).any():
        raise UserError("expected tiles that say where they lie for location, got none; leave out --location")


def _group_dates(locations: Rows, moments: Rows, usable: npt.NDArray[np.bool_]) -> list[Rows]:
    """Usable rows of each place in the order of their dates, of one moment the first."""
    rows = np.flatnonzero(usable)
    rows = rows[np.lexsort((rows, moments[rows], locations[rows]))]
    place, moment = locations[rows], moments[rows]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (place[1:] != place[:-1]) | (moment[1:] != moment[:-1])
    rows, place = rows[first], place[first]
    return np.split(rows, np.flatnonzero(place[1:] != place[:-1]) + 1)


def _spread(rows: Rows, dates: int) -> Rows:
    """Items of one place: rows in the order of their dates [n] -> [n // dates, dates], each spread over all dates."""
    step = len(rows) // dates
    return rows[: step * dates].reshape(dates, step).T.astype(np.int64)
