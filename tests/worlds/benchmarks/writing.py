"""A generated benchmark on disk: file after file, each whole, the manifest last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
from affine import Affine

from eo_ssl.commits import commit
from eo_ssl.errors import expect
from eo_ssl.fingerprints import fingerprint
from eo_ssl.manifest import open_product
from eo_ssl.sample.geotiff import encode_geotiff
from eo_ssl.sample.sample_archive import STAGE
from eo_ssl.sample.spec import SITES


def write_benchmark(folder: Path, *, seed: int, config: Mapping[str, Any], files: Iterable[tuple[str, bytes]]) -> Path:
    """Write ``files`` (path below the root, content) under ``folder`` and return it; a finished folder is left alone.

    Raises:
        UserError: a negative seed, or a folder made with other arguments.
    """
    expect(seed >= 0, expected="a seed of 0 or more", got=seed, remedy="choose another")
    folder = Path(folder)
    with open_product(folder, stage=STAGE, config={"seed": seed, **config}, inputs={}) as benchmark:
        if not benchmark.done:
            digests = {}
            for name, data in files:
                commit(folder / name, data)
                digests[name] = hashlib.sha256(data).hexdigest()
            benchmark.sign(fingerprint(digests), seed=seed)
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
    enough = "at least 3 images per class, one per split"
    expect(count >= 3, expected=enough, got=count, remedy="ask for more")
    held = max(1, round(0.2 * count))
    return range(count - 2 * held), range(count - 2 * held, count - held), range(count - held, count)
