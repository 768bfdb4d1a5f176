"""A generated benchmark on disk: file after file, each whole, the manifest last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
from affine import Affine

from eo_ssl.errors import UserError
from eo_ssl.manifest import Clock, commit, fingerprint, finish, plan
from eo_ssl.sample.geotiff import encode_geotiff
from eo_ssl.sample.spec import SITES


def write_benchmark(folder: Path, *, seed: int, config: Mapping[str, Any], files: Iterable[tuple[str, bytes]]) -> Path:
    """Write ``files`` (path below the root, content) under ``folder`` and return it; a finished folder is left alone.

    Raises:
        UserError: a negative seed, or a folder made with other arguments.
    """
    started, folder = Clock(), Path(folder)
    if seed < 0:
        raise UserError(f"expected a seed of 0 or more, got {seed}; choose another")
    whole = {"seed": seed, **config}
    if plan(folder, stage="synthetic", config=whole, inputs={}) == "done":
        return folder
    digests = {}
    for name, data in files:
        commit(folder / name, data)
        digests[name] = hashlib.sha256(data).hexdigest()
    finish(folder, stage="synthetic", config=whole, inputs={}, product=fingerprint(digests), started=started, seed=seed)
    return folder


def encode_raster(image: npt.NDArray[Any], *, bands: tuple[str, ...], number: int, pixel_m: float = 10.0) -> bytes:
    """Return a GeoTIFF of ``image`` [band, y, x]; ``number`` chooses one of the invented places and a spot in it."""
    site = SITES[number % len(SITES)]
    corner = Affine(pixel_m, 0.0, site.left_m + 1200.0 * number, 0.0, -pixel_m, site.top_m - 1200.0 * number)
    return encode_geotiff(image, epsg=site.epsg, transform=corner, nodata=None, bands=bands)


def split_numbers(count: int) -> tuple[range, range, range]:
    """Return the numbers of train, validation and test images out of ``count`` per class: 60/20/20, at least one each.

    Raises:
        UserError: fewer than three.
    """
    if count < 3:
        raise UserError(f"expected at least 3 images per class, one per split, got {count}; ask for more")
    held = max(1, round(0.2 * count))
    return range(count - 2 * held), range(count - 2 * held, count - held), range(count - held, count)
