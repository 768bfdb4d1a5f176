"""SSL4EO-S12 v1.1: zarr.zip files of 64 places x 4 times, Zarr version 2, read in place.

``bands`` [sample, time, band, y, x] int16 DN (Sentinel-2, the offset of processing baseline 04.00 kept: reflectance x
10,000 + 1,000) or float16 dB (Sentinel-1); ``cloud_mask`` [sample, time, y, x] uint8: land 0, water 1, snow 2, thin
cloud 3, thick cloud 4, cloud shadow 5, no data 6 (the data set's own description); ``x_``, ``y_`` pixel centres in
metres of EPSG code ``crs``; ``time_``, ``file_id``. Values are decoded without masks or scales, so that a stored 0
stays the number 0 and the card decides what it means.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from zarr.errors import BaseZarrError
from zarr.storage import ZipStore

from eo_ssl.cards import Card
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import hash_file, identify_file
from eo_ssl.scene.acquisition import Acquisition, format_iso
from eo_ssl.scene.chip import Chip
from eo_ssl.scene.grids import is_same_gsd
from eo_ssl.scene.product import Listing, Product
from eo_ssl.scene.product_source import ProductSource
from eo_ssl.scene.ssl4eo.sample_chips import (
    choose_seasons,
    crop_sample,
    get_settings,
    locate_corners,
    make_radiometry,
    read_void_ids,
)
from eo_ssl.sensors import sensor

ARRAY_BYTES = 4 * 2**30
"""Most unpacked bytes of one array or chunk.

The largest of the release, 13 bands in four seasons of 64 places, has 0.5 GB.
"""

_DAMAGED = (  # what zarr, numcodecs, zipfile and json raise over damaged files
    BaseZarrError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    RuntimeError,
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


def list_stacks(card: Card, root: Path) -> Listing:
    """Return a product per file; void ids are left out when a file is read and named then."""
    void = read_void_ids(card, root)
    acquisition = Acquisition("", card.processing_baseline, card.orbit, card.offset)
    paths = sorted(path for path in root.glob(str(card.files)) if path.is_file())
    products = [
        Product(
            f"{card.name}/{path.relative_to(root).as_posix().removesuffix('.zarr.zip')}",
            card,
            "chips",
            acquisition,
            ZarrStack(card, path, void),
        )
        for path in paths
    ]
    return products, []


@dataclass(frozen=True, slots=True)
class ZarrStack(ProductSource):
    """One zarr.zip file."""

    card: Card
    path: Path
    void: frozenset[str]

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return identify_file(self.path)[2]

    def checksum(self) -> str:
        """Sha256 of the file."""
        return hash_file(self.path)

    def open_chips(self) -> Iterator[Chip]:
        """Yield a chip per place and season; a time slab is decoded once, so memory is one slab.

        Raises:
            UserError: the file is damaged or not as the release describes it.
        """
        stack = _opened(*identify_file(self.path), os.getpid())
        try:
            yield from self._chips(stack)
        except UserError:  # also a ValueError, and already in words
            raise
        except _DAMAGED as error:
            raise UserError(
                f"expected the layout of SSL4EO-S12 v1.1 in {self.path}, got {type(error).__name__}: {error}; the file "
                "is damaged, fetch it again"
            ) from error

    def _chips(self, stack: xr.Dataset) -> Iterator[Chip]:
        if "sample" not in stack["bands"].dims:
            raise UserError(
                f"expected 64 places per file in {self.path}, got one place; it is of the later WebDataset release of "
                "v1.1, "
                "whose numbers carry no offset of 1000 and which this reader does not know: fetch the Zarr release"
            )
        order = self._band_order(stack)
        stated = [stack["bands"].attrs.get(name, default) for name, default in (("scale_factor", 1), ("add_offset", 0))]
        if (stated[0], stated[1]) != (1, 0):
            make_radiometry(self.card).check_stated(*map(float, stated), name=f"bands of {self.path}")
        times = stack["time_"].values.astype("datetime64[s]")
        samples = [str(name) for name in stack["sample"].values]
        wanted = [set(choose_seasons(self.card, row.tolist())) for row in times]
        for time in range(times.shape[1]):
            slab = stack["bands"][:, time].values
            classes = (
                stack["cloud_mask"][:, time].values if "cloud_mask" in stack and self.card.mask is not None else None
            )
            for number, sample in enumerate(samples):
                if time not in wanted[number] or sample in self.void:
                    continue
                yield crop_sample(
                    slab[number][order],
                    self.card,
                    f"{sample}/{time}",
                    datetime=format_iso(str(times[number, time])),
                    masks=self._masks(None if classes is None else classes[number]),
                    footprint=self._footprint(stack, number),
                )

    def _band_order(self, stack: xr.Dataset) -> list[int]:
        known = sensor(self.card.sensor).resolve_all(str(name) for name in stack["band"].values)
        lacking = [band for band in self.card.bands if band not in known]
        if lacking:
            raise UserError(
                f"expected the band {lacking[0]} in {self.path}, got {', '.join(known)}; correct `bands` or the "
                f"modality of card {self.card.name}"
            )
        return [known.index(band) for band in self.card.bands]

    def _masks(self, classes: npt.NDArray[Any] | None) -> dict[str, npt.NDArray[np.bool_]]:
        meanings = self.card.mask.classes if self.card.mask else {}
        return {} if classes is None else {meaning: np.isin(classes, values) for meaning, values in meanings.items()}

    def _footprint(self, stack: xr.Dataset, number: int) -> tuple[tuple[float, float], ...]:
        """Corners of the crop, from pixel centres in metres; rows lead south and columns east, by the card's gsd."""
        size = get_settings(self.card).crop_px
        sides = []
        for axis, sign in (("x_", 1.0), ("y_", -1.0)):
            centres = stack[axis][number].values
            steps = sign * np.diff(centres)
            expect(
                all(is_same_gsd(float(step), self.card.gsd_m) for step in steps),
                expected=f"steps of {sign * self.card.gsd_m:g} m in {axis} of sample {number} in {self.path}",
                got=f"{sign * steps.min():g} to {sign * steps.max():g} m",
                remedy=f"correct gsd_m of card {self.card.name}, or leave the file out",
            )
            first = (len(centres) - size) // 2
            half = (centres[1] - centres[0]) / 2
            sides.append((float(centres[first] - half), float(centres[first + size - 1] + half)))
        return locate_corners(int(stack["crs"][number]), sides[0], sides[1])


@lru_cache(maxsize=8)
def _opened(path: str, modified: int, size: int, process: int) -> xr.Dataset:
    """Open a file once per process (a handle must not cross a fork); a changed file is opened anew."""
    try:
        _check_sizes(path)
        stack: xr.Dataset = xr.open_zarr(
            ZipStore(path, mode="r"), mask_and_scale=False, chunks=None, consolidated=False
        )
    except UserError:  # also a ValueError, and already in words
        raise
    except _DAMAGED as error:
        raise UserError(
            f"expected a Zarr group in {path}, got {type(error).__name__}: {error}; the file is damaged, fetch it again"
        ) from error
    return stack


def _check_sizes(path: str) -> None:
    """Refuse arrays that would fill the memory; Zarr takes a shape as it is written."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not name.endswith(".zarray"):
                continue
            with archive.open(name) as member:
                array = json.loads(member.read(2**20))
            unpacked = max(math.prod(array["shape"]), math.prod(array["chunks"])) * np.dtype(array["dtype"]).itemsize
            if unpacked > ARRAY_BYTES:
                raise UserError(
                    f"expected at most {ARRAY_BYTES:,} bytes per array in {path}, got {unpacked:,} in {name}; do not "
                    "trust this file"
                )
