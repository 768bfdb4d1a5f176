"""The contract of generated top-of-atmosphere reflectance, for the benchmarks."""

from __future__ import annotations

from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity


def make_contract(bands: tuple[str, ...], *, size_px: int) -> Preprocessing:
    """Mean 0.2 and standard deviation 0.1 of every band, images brought to ``size_px``."""
    return Preprocessing(
        sensor="sentinel2_l1c",
        quantity=Quantity.TOA_REFLECTANCE,
        bands=bands,
        convert=(),
        range=(-0.2, 2.0),
        clip=None,
        mean=(0.2,) * len(bands),
        std=(0.1,) * len(bands),
        size_px=size_px,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )
