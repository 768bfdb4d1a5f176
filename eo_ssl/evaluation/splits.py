"""Spatial splits into training and test: whole sites, never random neighbours.

Products whose footprints overlap are one site. Few sites are left out one at a time, many in five groups; a single site
is cut in two halves with a strip between them. What is resampled together for an interval is a site, or a cell of a
single site.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError

Rows = npt.NDArray[np.int64]
Boxes = npt.NDArray[np.float64]

GROUPS = 5  # folds when there are more sites than that
CELLS = 4  # a single site is cut into CELLS x CELLS cells for the bootstrap


@dataclass(frozen=True, slots=True)
class Fold:
    """Positions of one division into training and test samples."""

    train: Rows
    test: Rows
    validation: Rows
    "to choose hyper-parameters; empty where the benchmark has none"


@dataclass(frozen=True, slots=True)
class Division:
    """All folds of a task and the blocks of its samples."""

    folds: tuple[Fold, ...]
    blocks: Rows
    "[n], block of each sample"
    split: str
    "how it was divided, in words"


@dataclass(frozen=True, slots=True)
class SampleLocations:
    """Product, box and offset of n samples."""

    product: npt.NDArray[np.str_]
    "[n] product id"
    box: Boxes
    "[n, 4] xmin, ymin, xmax, ymax in degrees; NaN without georeference"
    offset: Boxes
    "[n, 4] left, top, right, bottom in pixels of the product"


def divide(places: SampleLocations) -> Division:
    """Return folds over sites for samples at ``places``; each sample is tested in at most one fold.

    Raises:
        UserError: fewer than two samples.
    """
    if len(places.product) < 2:
        raise UserError(
            f"expected at least two labelled samples to divide, got {len(places.product)}; ingest labelled products"
        )
    site = group_sites(places)
    count = int(site.max()) + 1
    everything = np.arange(len(site), dtype=np.int64)
    empty = np.empty(0, dtype=np.int64)
    if count == 1:
        return _halves(places)
    group = np.arange(count) if count <= GROUPS else _balanced(np.bincount(site), GROUPS)
    of = group[site]
    folds = tuple(Fold(everything[of != one], everything[of == one], empty) for one in range(int(group.max()) + 1))
    how = (
        f"leave one of {count} sites out" if count <= GROUPS else f"{GROUPS} groups of {count} sites, each tested once"
    )
    return Division(
        folds, site, f"{how} (site: products with overlapping footprints; a product without georeference is its own)"
    )


def group_sites(places: SampleLocations) -> Rows:
    """Return the site of each sample, int64 [n], numbered by first appearance."""
    names, first, product = np.unique(places.product, return_index=True, return_inverse=True)
    boxes = np.full((len(names), 4), np.nan)
    for number in range(len(names)):
        own = places.box[product == number]
        if np.isfinite(own).all():
            boxes[number] = (*own[:, :2].min(axis=0), *own[:, 2:].max(axis=0))
    site = np.full(len(names), -1)
    for number, start in enumerate(np.argsort(first)):
        if site[start] >= 0:
            continue
        reached = [int(start)]
        site[start] = number
        while reached:  # everything that overlaps, and what overlaps that
            box = boxes[reached.pop()]
            overlap = (boxes[:, 0] < box[2]) & (boxes[:, 2] > box[0]) & (boxes[:, 1] < box[3]) & (boxes[:, 3] > box[1])
            new = np.flatnonzero(overlap & (site < 0))
            site[new] = number
            reached += new.tolist()
    return np.unique(site, return_inverse=True)[1][product].astype(np.int64)


def _balanced(sizes: Rows, groups: int) -> Rows:
    """Group of each site, the largest first into the smallest group."""
    load = np.zeros(groups, dtype=np.int64)
    group = np.empty(len(sizes), dtype=np.int64)
    for site in np.argsort(-sizes, kind="stable"):
        group[site] = load.argmin()
        load[group[site]] += sizes[site]
    return group


def _halves(places: SampleLocations) -> Division:
    """Two folds, one half of the site each, without the training tiles that lie within a tile's width of the cut."""
    flat = np.isfinite(places.box).all()
    box = places.box if flat else places.offset
    centre = (box[:, :2] + box[:, 2:]) / 2  # [n, 2]
    tile = np.median(box[:, 2:] - box[:, :2], axis=0)
    extent = np.ptp(centre, axis=0)
    axis = int(np.argmax(extent / np.maximum(tile, 1e-12)))  # along the side with more tiles
    along = centre[:, axis]
    cut = float(np.median(along))
    everything = np.arange(len(along), dtype=np.int64)
    empty = np.empty(0, dtype=np.int64)
    low, high = along < cut, along >= cut
    strip = np.abs(along - cut) < tile[axis]
    folds = tuple(
        Fold(everything[train & ~strip], everything[test], empty) for train, test in ((low, high), (high, low))
    )
    cell = np.minimum((CELLS * (centre - centre.min(axis=0)) / np.maximum(extent, 1e-12)).astype(np.int64), CELLS - 1)
    where = ("longitude", "latitude") if flat else ("column", "row")
    words = (
        f"one site: halves by {where[axis]}, each tested once, training tiles within a tile of the cut left out; "
        f"blocks are {CELLS} x {CELLS} cells"
    )
    return Division(folds, (cell[:, 1] * CELLS + cell[:, 0]).astype(np.int64), words)
