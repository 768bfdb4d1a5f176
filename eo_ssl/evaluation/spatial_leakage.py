"""Spatial leakage: the share of test tiles beside training tiles, whose neighbours resemble them."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import shapely

from eo_ssl.evaluation.tasks import Task

REACH = 0.5
"""Tiles closer than half a tile's side are neighbours: those that overlap, touch or have a thin strip between them."""


def measure_spatial_leakage(task: Task) -> float | None:
    """Return the share of test tiles with a training tile of their fold beside them; None without georeference.

    A measure of leakage through space (Roberts et al. 2017, doi:10.1111/ecog.02881), not a proof of it.
    """
    if task.places is None:
        return None
    beside = 0
    for fold in task.folds:
        tiles = shapely.STRtree(shapely.box(*_with_georeference(task.places[fold.train]).T))
        wide = _with_georeference(task.places[fold.test])
        reach = REACH * np.tile(np.stack([wide[:, 2] - wide[:, 0], wide[:, 3] - wide[:, 1]], axis=1), 2)
        wide = wide + np.array([-1, -1, 1, 1]) * reach
        beside += len(np.unique(tiles.query(shapely.box(*wide.T), predicate="intersects")[0]))
    return beside / len(task.tested)


def note_spatial_leakage(task: Task) -> Task:
    """Return ``task`` with a note where test tiles have training tiles beside them."""
    share = measure_spatial_leakage(task)
    if not share:
        return task
    note = (
        f"{100 * share:.0f} % of the test tiles have a training tile beside them: this split says little of other "
        "places"
    )
    return dataclasses.replace(task, notes=(*task.notes, note))


def _with_georeference(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Boxes [n, 4] with a georeference."""
    return boxes[np.isfinite(boxes).all(axis=1)]
