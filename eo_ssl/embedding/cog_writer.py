"""The file a scene's embeddings go to: written block by block, then turned into a Cloud-Optimized GeoTIFF by GDAL."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from eo_ssl.embedding.table import Matrix, Stored
from eo_ssl.embedding.windows import Range
from eo_ssl.errors import UserError

_BLOCK_BYTES = 16_000_000  # of a compressed block: all bands of its pixels lie together
_WORK_BLOCK_PX = 64  # of the uncompressed file that is written first, one band after the other


@dataclass(frozen=True, slots=True)
class Georeference:
    """The place of the cells on Earth."""

    crs: str
    "empty where unknown"
    transform: tuple[float, ...]
    "affine a, b, c, d, e, f of the cells; empty where unknown"

    @classmethod
    def of_cells(cls, crs: str, transform: tuple[float, ...], *, patch_px: int) -> Georeference:
        """Return the grid of cells of ``patch_px`` pixels on the pixels' grid ``transform``: same origin."""
        if not crs or not transform:
            return cls("", ())
        a, b, c, d, e, f = transform
        return cls(crs, (a * patch_px, b * patch_px, c, d * patch_px, e * patch_px, f))


class Canvas:
    """An uncompressed GeoTIFF that threads fill block by block; memory holds no more than the blocks at hand."""

    def __init__(
        self, path: Path, *, bands: int, shape: tuple[int, int], where: Georeference, tags: Mapping[str, str]
    ) -> None:
        self._lock = threading.Lock()  # a GDAL handle must not be used by two threads at once
        height, width = shape
        grid: dict[str, Any] = (
            {"crs": where.crs, "transform": Affine(*where.transform)} if where.transform else {"transform": None}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # of a scene whose place nobody knows
            self._file: Any = rasterio.open(
                path,
                "w",
                driver="GTiff",
                count=bands,
                height=height,
                width=width,
                dtype="float32",
                nodata=float("nan"),
                tiled=True,
                blockxsize=_WORK_BLOCK_PX,
                blockysize=_WORK_BLOCK_PX,
                interleave="band",
                BIGTIFF="YES",
                **grid,
            )
        for number in range(bands):
            self._file.set_band_description(number + 1, f"embedding_{number:04d}")
        self._file.update_tags(**tags)

    def __enter__(self) -> Canvas:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, values: Matrix, *, rows: Range, columns: Range) -> None:
        """Write ``values`` [D, h, w] float32 to the cells of a half-open window.

        Raises:
            UserError: the disk is full.
        """
        window = Window(columns[0], rows[0], columns[1] - columns[0], rows[1] - rows[0])
        try:
            with self._lock:
                self._file.write(values, window=window)
        except RasterioError as error:
            raise UserError(
                f"expected room to write the embeddings beside {self._file.name}, got: {error}; free some space and "
                "run again"
            ) from error


def optimise(source: Path, target: Path, *, bands: int, stored: Stored) -> None:
    """Write the Cloud-Optimized GeoTIFF ``target`` of ``source``: bands of a pixel together, averaged overviews.

    Raises:
        UserError: GDAL could not, most often for want of room.
    """
    side = 512
    while side > 128 and side * side * bands * 4 > _BLOCK_BYTES:
        side //= 2
    options = {"NBITS": "16"} if stored == "float16" else {}
    try:
        rasterio.shutil.copy(
            source,
            target,
            driver="COG",
            COMPRESS="DEFLATE",
            PREDICTOR="FLOATING_POINT",
            BLOCKSIZE=str(side),
            BIGTIFF="IF_SAFER",
            OVERVIEWS="AUTO",
            OVERVIEW_RESAMPLING="AVERAGE",
            **options,
        )
    except RasterioError as error:
        raise UserError(
            f"expected to write {target.name.strip('.')}, got: {error}; free some space or look at the folder, and "
            "run again"
        ) from error
