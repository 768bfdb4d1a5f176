"""Per-band statistics that merge: count, moments, extremes and a histogram, kept apart by stratum.

Stored values have at most 65,536 codes, so counting codes is an exact sufficient statistic: moments, extremes and
histogram follow from the counts in float64, in the stream's quantity and, for powers, in dB, without a second pass over
pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from eo_ssl.corpus.streams import Encoding, Stream
from eo_ssl.errors import UserError
from eo_ssl.sensors import FLOOR_DB, Quantity, convert

Floats = npt.NDArray[np.float64]
_TOP_DB = 30.0  # dB; corner reflectors and cities stay below, the last bin takes what does not


def place_bin_edges(quantity: Quantity) -> Floats:
    """Return the fixed histogram edges of ``quantity``.

    Values beyond the first or last edge count in the first or last bin.

    Reflectance: 0.001 wide from -0.2 to 1.8. dB: 0.05 dB from the floor to 30 dB; linear power has the same edges, so
    that both histograms hold the same counts. DN: 1 wide to 256, then equal steps in the logarithm to 65,536.
    Amplitude, of any scale: zero, then steps of 1.4 % from 1e-4 to 65,536.
    """
    if quantity.is_reflectance:
        return np.linspace(-0.2, 1.8, 2001)
    decibel = np.linspace(FLOOR_DB, _TOP_DB, 1601)
    if quantity.is_db:
        return decibel
    if quantity.is_power:
        return np.asarray(10 ** (decibel / 10))
    if quantity is Quantity.AMPLITUDE:
        return np.concatenate([[0.0], np.geomspace(1e-4, 65536, 1501)])
    return np.concatenate([np.arange(256.0), np.geomspace(256, 65536, 513)])


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations, extremes and histogram of each band of one stratum."""

    count: npt.NDArray[np.int64]
    "[C] valid pixels"
    mean: Floats
    m2: Floats
    "[C] sum of squared deviations from the mean"
    minimum: Floats
    maximum: Floats
    histogram: npt.NDArray[np.int64]
    "[C, bins]"

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets together (Chan, Golub and LeVeque 1983, eq. 2.1)."""
        count = self.count + other.count
        safe = np.maximum(count, 1)
        delta = np.where(self.count == 0, 0.0, np.where(other.count == 0, 0.0, other.mean - self.mean))
        mean = np.where(self.count == 0, other.mean, self.mean + delta * other.count / safe)
        m2 = self.m2 + other.m2 + delta**2 * self.count * other.count / safe
        return Moments(
            count,
            mean,
            m2,
            np.fmin(self.minimum, other.minimum),
            np.fmax(self.maximum, other.maximum),
            self.histogram + other.histogram,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values; histograms without their empty ends."""
        rows = []
        for counts in self.histogram:
            filled = np.flatnonzero(counts)
            first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
            rows.append({"first": first, "counts": counts[first:last].tolist()})
        numbers = {
            name: [None if np.isnan(v) else v for v in getattr(self, name).tolist()]
            for name in ("mean", "m2", "minimum", "maximum")
        }
        return {"count": self.count.tolist(), **numbers, "histogram": rows}

    @classmethod
    def from_json(cls, value: dict[str, Any], *, bins: int) -> Moments:
        """Return the moments of :meth:`to_json`."""
        histogram = np.zeros((len(value["count"]), bins), dtype=np.int64)
        for row, filled in zip(histogram, value["histogram"], strict=True):
            row[filled["first"] : filled["first"] + len(filled["counts"])] = filled["counts"]
        mean, m2, low, high = (
            np.array([np.nan if v is None else v for v in value[name]]) for name in ("mean", "m2", "minimum", "maximum")
        )
        return cls(np.asarray(value["count"], dtype=np.int64), mean, m2, low, high, histogram)


class Stratum(NamedTuple):
    """What tiles have in common whose pixels are counted together."""

    sensor: str
    level: str
    "the stream's quantity"
    baseline: str
    orbit: str
    month: int = 0
    "1 to 12, 0 unknown (also in statistics made before months were told apart)"


@dataclass(frozen=True)
class BandStats:
    """Statistics of a stream in one quantity.

    By stratum (sensor, level, processing baseline, orbit, month) and over all of them.
    """

    quantity: Quantity
    "what the numbers are in"
    bands: tuple[str, ...]
    strata: dict[Stratum, Moments]

    @cached_property
    def total(self) -> Moments:
        """All strata together.

        Raises:
            UserError: there is nothing to describe (no tile in the training split).
        """
        if not self.strata:
            raise UserError(
                f"expected at least one training tile to have {self.quantity.value} statistics of, got none; ingest "
                "more products or raise the share of train"
            )
        return reduce(Moments.merge, (self.strata[key] for key in sorted(self.strata)))

    @property
    def count(self) -> npt.NDArray[np.int64]:
        """Valid pixels per band, int64 [C]."""
        return self.total.count

    @property
    def mean(self) -> Floats:
        """Mean per band, float64 [C]."""
        return self.total.mean

    @property
    def std(self) -> Floats:
        """Population standard deviation per band, float64 [C]."""
        return np.asarray(np.sqrt(self.total.m2 / np.maximum(self.total.count, 1)))

    @property
    def minimum(self) -> Floats:
        """Least value per band, float64 [C]."""
        return self.total.minimum

    @property
    def maximum(self) -> Floats:
        """Largest value per band, float64 [C]."""
        return self.total.maximum

    @property
    def histogram(self) -> npt.NDArray[np.int64]:
        """Counts per band and bin of :attr:`edges`, int64 [C, bins]."""
        return self.total.histogram

    @property
    def edges(self) -> Floats:
        """Histogram edges, float64 [bins + 1]."""
        return place_bin_edges(self.quantity)

    def percentile(self, q: float) -> Floats:
        """Return the ``q``-th percentile (0..100) per band, float64 [C].

        It lies in the bin of the value of that rank (the inverted cumulative counts), linear inside it, within minimum
        and maximum.
        """
        if not 0 <= q <= 100:
            raise UserError(f"expected a percentile from 0 to 100, got {q}; give percent")
        edges, total = self.edges, self.total
        values = []
        for row, low, high in zip(total.histogram, total.minimum, total.maximum, strict=True):
            cumulative = np.concatenate([[0], np.cumsum(row)])
            rank = q / 100 * cumulative[-1]
            k = max(int(np.searchsorted(cumulative, rank)) - 1, 0)  # the bin that holds the value of this rank
            inside = (rank - cumulative[k]) / max(row[k], 1)
            values.append(np.clip(edges[k] + inside * (edges[k + 1] - edges[k]), low, high))
        return np.asarray(values)

    def where(self, **wanted: str | int | Collection[str | int]) -> BandStats:
        """Return the statistics of some strata, for example ``where(month=(6, 7, 8), orbit="ascending")``.

        Raises:
            UserError: an unknown part of a stratum, or no stratum has the values (naming those there are).
        """
        chosen = self.strata
        for name, values in wanted.items():
            if name not in Stratum._fields:
                raise UserError(
                    f"expected a part of a stratum out of {', '.join(Stratum._fields)}, got {name!r}; correct it"
                )
            allowed = {values} if isinstance(values, str | int) else set(values)
            known = ", ".join(sorted({repr(getattr(key, name)) for key in chosen}))
            chosen = {key: moments for key, moments in chosen.items() if getattr(key, name) in allowed}
            if not chosen:
                raise UserError(f"expected strata with {name} {values!r}, got {known or 'none'}; choose out of them")
        return BandStats(self.quantity, self.bands, chosen)

    def merge(self, other: BandStats) -> BandStats:
        """Return the statistics of both; order and grouping of merges do not matter beyond rounding.

        Raises:
            UserError: quantities or bands differ.
        """
        if (self.quantity, self.bands) != (other.quantity, other.bands):
            raise UserError(
                f"expected statistics of the same quantity and bands, got {self.quantity.value} {self.bands} and "
                f"{other.quantity.value} {other.bands}; "
                "merge within one stream"
            )
        strata = dict(self.strata)
        for key, moments in other.strata.items():
            strata[key] = strata[key].merge(moments) if key in strata else moments
        return BandStats(self.quantity, self.bands, strata)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        rows = [{"stratum": list(key), **self.strata[key].to_json()} for key in sorted(self.strata)]
        return {"quantity": self.quantity.value, "bands": list(self.bands), "strata": rows}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BandStats:
        """Return the statistics of :meth:`to_json`."""
        quantity = Quantity(value["quantity"])
        bins = len(place_bin_edges(quantity)) - 1
        strata = {Stratum(*row["stratum"]): Moments.from_json(row, bins=bins) for row in value["strata"]}
        return cls(quantity, tuple(value["bands"]), strata)


class CodeCounter:
    """Counts of stored codes per band, from which all statistics follow exactly."""

    def __init__(self, stream: Stream, encoding: Encoding) -> None:
        self._stream, self._encoding = stream, encoding
        self._values = encoding.codes()
        self._counts: dict[int, npt.NDArray[np.int64]] = {}  # by month

    def add(self, stored: npt.NDArray[Any], *, month: int = 0) -> None:
        """Count the tiles ``stored`` [n, C (+ 1), H, W] of one month (1 to 12, 0 unknown)."""
        bands = len(self._stream.bands)
        counts = self._counts.setdefault(month, np.zeros((bands, len(self._values)), dtype=np.int64))
        unsigned = stored.view(np.uint8 if self._encoding.dtype == "uint8" else np.uint16)
        for band in range(bands):
            codes = unsigned[:, band]
            if self._encoding.extra_channels:
                codes = codes[stored[:, bands] != 0]
            counts[band] += np.bincount(codes.ravel(), minlength=counts.shape[1])

    def statistics(self, *, baseline: str, orbit: str) -> list[BandStats]:
        """Return the statistics in the stream's quantity and, for a power, also in dB."""
        quantity = self._stream.quantity
        views = [(quantity, self._values)]
        if quantity.is_power:
            views.append(
                (quantity.in_db, convert(self._values, source=quantity, target=quantity.in_db).astype(np.float64))
            )
        counted = {
            Stratum(self._stream.sensor, quantity.value, baseline, orbit, month): counts
            for month, counts in sorted(self._counts.items())
            if counts.any()
        }
        return [
            BandStats(
                name, self._stream.bands, {key: _moments(counts, values, name) for key, counts in counted.items()}
            )
            for name, values in views
        ]


def _moments(counts: npt.NDArray[np.int64], values: Floats, quantity: Quantity) -> Moments:
    """Return the exact moments of ``values`` [codes] that occur ``counts`` [C, codes] times."""
    known = np.isfinite(values) & counts.any(axis=0)  # a few thousand codes of 65,536
    counts, values = counts[:, known], values[known]
    number = counts.sum(axis=1)
    safe = np.maximum(number, 1)
    mean = (counts * values).sum(axis=1) / safe
    m2 = (counts * (values - mean[:, None]) ** 2).sum(axis=1)
    seen = counts > 0
    low = np.where(seen, values, np.inf).min(axis=1, initial=np.inf)
    high = np.where(seen, values, -np.inf).max(axis=1, initial=-np.inf)
    edges = place_bin_edges(quantity)
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    histogram = np.stack([np.bincount(bins, weights=row, minlength=len(edges) - 1) for row in counts]).astype(np.int64)
    none = number == 0
    return Moments(
        number, np.where(none, np.nan, mean), m2, np.where(none, np.nan, low), np.where(none, np.nan, high), histogram
    )


def merge_strata(parts: Iterable[BandStats]) -> list[BandStats]:
    """Return one :class:`BandStats` per quantity out of ``parts``."""
    merged: dict[Quantity, BandStats] = {}
    for part in parts:
        merged[part.quantity] = merged[part.quantity].merge(part) if part.quantity in merged else part
    return list(merged.values())
