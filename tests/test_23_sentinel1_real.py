"""New pixels under real annotation XML: what the reader makes of them, against a formula with numbers copied by hand, and independent readers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import xarray_sentinel
from rasterio.windows import Window

from eo_ssl.cards import load_card
from eo_ssl.scene.readers import list_products
from eo_ssl.scene.sentinel1.power import RadarImage
from eo_ssl.sensors import Quantity
from safe_products import radar_safe
from worlds.safe import S1RealTruth, make_s1_grd_from_annotation

OLD = "S1A_IW_GRDH_1SDV_20150203T043109_20150203T043134_004454_00574F_6D00"  # one list of noise, not zero
NEW = "S1A_IW_GRDH_1SDV_20210119T031653_20210119T031718_036201_043ED0_8255"  # noise along range times azimuth
ORIGIN, SIZE = (9000, 8700), (64, 96)  # the first sub-swath ends at sample 8742

# Each corner of a cell of a table: line, (sample, value), (sample, value). Copied from the text of the files.
Cell = tuple[tuple[int, tuple[int, float], tuple[int, float]], ...]
SIGMA: dict[str, Cell] = {
    OLD: ((8690, (8720, 614.8253), (8760, 614.6418)), (9358, (8720, 614.8253), (8760, 614.6418))),
    NEW: ((8764, (8720, 616.0718), (8760, 616.8652)), (9439, (8720, 616.0718), (8760, 616.8652))),
}
NOISE: dict[tuple[str, str], Cell] = {
    (OLD, "VV"): ((8684, (8712, 973.0208), (8752, 956.8685)), (9352, (8708, 977.3745), (8748, 961.0973))),
    (OLD, "VH"): ((8684, (8712, 995.6126), (8752, 979.2869)), (9352, (8708, 999.9594), (8748, 983.5131))),
    (NEW, "VV"): ((8762, (8720, 1642.691), (8742, 1653.403)), (9436, (8720, 1644.980), (8742, 1655.745))),
    (NEW, "VH"): ((8762, (8720, 1885.426), (8742, 1897.498)), (9436, (8720, 1889.914), (8742, 1902.083))),
}
FACTOR = {"VV": (1.0, 1.000044), "VH": (0.9999999, 0.9999738)}  # of the first sub-swath in 2021, lines 9000 and 9010
BEYOND = {
    "VV": (1656.990, 1665.962, 1.048068),
    "VH": (1911.252, 1915.478, 1.048424),
}  # sample 8743: noise, factor at 9000


def _inside(cell: Cell, line: float, sample: float) -> float:
    """Linear in sample, then in line."""
    (top, *_), (bottom, *_) = cell
    upper, lower = (a + (b - a) * (sample - p) / (q - p) for _, (p, a), (q, b) in cell)
    return upper + (lower - upper) * (line - top) / (bottom - top)


@pytest.fixture(scope="module", params=[OLD, NEW], ids=["2015", "2021"])
def made(request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> S1RealTruth:
    archive = real_data / "s1_grd_annotations" / f"{request.param}.zip"
    return make_s1_grd_from_annotation(tmp_path_factory.mktemp("real"), archive, window=SIZE, origin=ORIGIN, seed=7)


def _power(truth: S1RealTruth, polarisation: str, *, denoised: bool = True) -> npt.NDArray[np.float32]:
    safe = radar_safe(truth.path)
    (image,) = (image for image in safe.images if image.polarisation == polarisation)
    radar = RadarImage(safe, image, Quantity.SIGMA0, denoised)
    radar.check()
    return radar.power(*((start, start + size) for start, size in zip(ORIGIN, SIZE, strict=True)))


@pytest.mark.parametrize("polarisation", ["VV", "VH"])
def test_sigma0_is_the_formula_with_the_numbers_of_the_files(made: S1RealTruth, polarisation: str) -> None:
    name, dn, power = made.path.stem, made.dn[polarisation].astype(float), _power(made, polarisation)
    for line in range(9000, 9011):
        for sample in range(8720, 8743):
            noise = _inside(NOISE[name, polarisation], line, sample)
            if name == NEW:
                start, end = FACTOR[polarisation]
                noise *= start + (end - start) * (line - 9000) / 10
            place = line - ORIGIN[0], sample - ORIGIN[1]
            expected = (dn[place] ** 2 - noise) / _inside(SIGMA[name], line, sample) ** 2
            assert power[place] == pytest.approx(expected, rel=1e-5)
    if name == NEW:  # the next sample is of the second sub-swath
        upper, lower, factor = BEYOND[polarisation]
        noise = factor * (upper + (lower - upper) * (9000 - 8762) / (9436 - 8762))
        expected = (dn[0, 43] ** 2 - noise) / _inside(SIGMA[NEW], 9000, 8743) ** 2
        assert power[0, 43] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("polarisation", ["VV", "VH"])
def test_the_truth_comes_back_within_quantization(made: S1RealTruth, polarisation: str) -> None:
    power, dn = _power(made, polarisation), made.dn[polarisation].astype(float)
    least = min(value for _, *ends in SIGMA[made.path.stem] for _, value in ends)
    assert (np.abs(power - made.sigma0[polarisation]) <= (dn + 0.3) / (0.99 * least) ** 2).all()


@pytest.mark.parametrize("polarisation", ["VV", "VH"])
def test_independent_readers_find_the_same_pixels_and_calibrate_them_alike(
    made: S1RealTruth, polarisation: str
) -> None:
    with rasterio.open(made.path / "manifest.safe") as dataset:
        (index,) = (i for i in dataset.indexes if dataset.tags(i)["POLARIZATION"] == polarisation)
        stored = dataset.read(index, window=Window(ORIGIN[1], ORIGIN[0], SIZE[1], SIZE[0]))
    np.testing.assert_array_equal(stored, made.dn[polarisation])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = f"IW/{polarisation}"
        pixels = xarray_sentinel.open_sentinel1_dataset(str(made.path), group=group).measurement
        table = xarray_sentinel.open_sentinel1_dataset(str(made.path), group=f"{group}/calibration").sigmaNought
        part = pixels[ORIGIN[0] : ORIGIN[0] + SIZE[0], ORIGIN[1] : ORIGIN[1] + SIZE[1]]
        theirs = xarray_sentinel.calibrate_intensity(part, table).values
    np.testing.assert_allclose(_power(made, polarisation, denoised=False), theirs, rtol=1e-5)


def test_the_product_of_real_size_opens_through_its_card(made: S1RealTruth) -> None:
    (product,) = list_products(load_card("s1_safe_grd"), made.path.parent).products
    assert product.product_id == f"s1_safe_grd/{made.path.stem}"
    assert len(product.checksum()) == 64
    cube = product.open(plausible=False)
    assert (cube.sizes["band"], cube.sizes["y"] > 20_000, cube.sizes["x"] > 25_000) == (2, True, True)
    assert cube["image"].encoding["preferred_chunks"] == {"band": 2, "y": 2048, "x": 2048}
