"""Where files lie: rotated, upside-down and mirrored grids, systems without a place on Earth, and pixels of degrees and feet in metres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.transform import Affine

from catalogues import asset, item, only
from catalogues import card as stac_card
from catalogues import write as write_json
from eo_ssl.cards import load_card
from eo_ssl.errors import UserError
from eo_ssl.scene.grids import make_grid, measure_pixel_m
from rasters import FOLDER, RASTER, card, image_of, write

NORTH_UP = Affine(10, 0, 5e5, 0, -10, 4e6)
TURNED = {
    "rotated": (Affine.translation(5e5, 4e6) * Affine.rotation(30) * Affine.scale(10, -10), "a rotated one"),
    "south-up": (Affine(10, 0, 5e5, 0, 10, 4e6), "rows from south to north"),
    "mirrored": (Affine(-10, 0, 5e5, 0, -10, 4e6), "columns from east to west"),
}
LOCAL = 'LOCAL_CS["site grid",UNIT["metre",1]]'


def scene(rng: np.random.Generator, bands: int = 3) -> np.ndarray:
    return rng.integers(300, 6000, (bands, 32, 32)).astype(np.uint16)


@pytest.mark.parametrize("kind", TURNED)
@pytest.mark.parametrize("gsd_m", [10.0, 60.0])  # of the wrong size as well: the orientation is said first
def test_what_is_not_north_up_is_refused_before_anything_else(
    tmp_path: Path, rng: np.random.Generator, kind: str, gsd_m: float
) -> None:
    transform, what = TURNED[kind]
    write(tmp_path / "a.tif", scene(rng, 5), transform=transform)
    with pytest.raises(UserError, match=rf"expected north-up rasters, got {what} in .*a\.tif; rectify"):
        image_of(tmp_path, card(tmp_path, RASTER, gsd_m=gsd_m))
    for band in ("B02", "B03", "B04"):
        write(tmp_path / "scene" / f"{band}.tif", scene(rng, 1), transform=transform if band == "B03" else NORTH_UP)
    with pytest.raises(UserError, match=rf"expected north-up rasters, got {what} in .*B03\.tif"):
        image_of(tmp_path, card(tmp_path, FOLDER, gsd_m=gsd_m))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_labels_mask_assets_and_the_cards_own_transform_too(tmp_path: Path, rng: np.random.Generator) -> None:
    south_up = TURNED["south-up"][0]
    write(tmp_path / "a.tif", scene(rng))
    write(tmp_path / "more" / "labels.tif", scene(rng, 1), transform=south_up)
    labels = {"source": "more/labels.tif", "classes": {1: "water"}}
    with pytest.raises(UserError, match=r"rows from south to north in .*labels\.tif"):
        image_of(tmp_path, card(tmp_path, RASTER, labels=labels))
    write(tmp_path / "a.tif", scene(rng), crs=None, transform=None)
    with pytest.raises(UserError, match="rows from south to north in card set"):
        image_of(tmp_path, card(tmp_path, RASTER, crs="EPSG:32632", transform=list(south_up)[:6]))
    write(tmp_path / "B02.tif", scene(rng, 1), transform=south_up)
    said = item(assets={"blue": asset("B02.tif", (32, 32), 10)}, **{"s2:processing_baseline": "05.09"})
    write_json(tmp_path / "item.json", said)
    with pytest.raises(UserError, match=r"rows from south to north in .*B02\.tif"):
        only(stac_card(bands=("B02",)), tmp_path).open()


@pytest.mark.parametrize(("crs", "name"), [(LOCAL, "site grid"), ("EPSG:4978", "WGS 84")])
def test_a_system_without_a_place_on_earth_is_said(
    tmp_path: Path, rng: np.random.Generator, crs: str, name: str
) -> None:
    write(tmp_path / "a.tif", scene(rng), crs=rasterio.CRS.from_user_input(crs))
    with pytest.raises(UserError, match=rf"with a place on Earth in .*a\.tif, got '{name}'"):
        image_of(tmp_path, card(tmp_path, RASTER))


@pytest.mark.parametrize(
    ("crs", "transform", "gsd_m", "got"),
    [
        ("EPSG:4326", (1e-3, 0, 11, 0, -1e-3, 46), 10.0, "77.5 x 111 m on the ground"),
        ("EPSG:4326", (1e-4, 0, 11, 0, -1e-4, 46), 10.0, "7.75 x 11.1 m on the ground"),  # not square there
        ("EPSG:4326", (1e-4, 0, 11, 0, -1e-4, 5), 10.0, ""),
        ("EPSG:4326", (1e-4, 0, 190, 0, -1e-4, -16), 10.0, ""),
        ("EPSG:4326", (9e-5, 0, 11, 0, -9e-5, 5), 30.0, "9.98 x 9.95 m on the ground"),
        ("EPSG:4807", (1e-4, 0, 2, 0, -1e-4, 5), 10.0, ""),  # grads, 400 to a turn
        ("EPSG:2263", (10, 0, 980_000, 0, -10, 200_000), 10.0, "3.04801 m"),
        ("EPSG:2263", (10, 0, 980_000, 0, -10, 200_000), 3.048, ""),
        ("EPSG:32632", (10, 0, 600_000, 0, -10, 5_100_000), 10.0, ""),
        ("EPSG:32632", (10.15, 0, 600_000, 0, -10.15, 5_100_000), 10.0, ""),
        ("EPSG:32632", (10.5, 0, 600_000, 0, -10.5, 5_100_000), 10.0, "10.5 m"),
        ("EPSG:3857", (10, 0, 1_200_000, 0, -10, 5_800_000), 10.0, "6.94 x 6.92 m on the ground"),
        ("EPSG:3857", (14.42, 0, 1_200_000, 0, -14.42, 5_800_000), 10.0, ""),
    ],
)
def test_pixels_are_compared_in_metres_whatever_their_unit(
    tmp_path: Path, rng: np.random.Generator, crs: str, transform: tuple[float, ...], gsd_m: float, got: str
) -> None:
    write(tmp_path / "a.tif", scene(rng), crs=crs, transform=Affine(*transform))
    for band in ("B02", "B03", "B04"):
        write(tmp_path / "scene" / f"{band}.tif", scene(rng, 1), crs=crs, transform=Affine(*transform))
    for fields in (RASTER, FOLDER):
        known = card(tmp_path, fields, gsd_m=gsd_m)
        if not got:
            assert image_of(tmp_path, known).shape == (3, 32, 32)
        elif fields is FOLDER and (crs, gsd_m) == ("EPSG:2263", 10.0):  # finer than the card: brought to 10 m
            assert image_of(tmp_path, known).shape == (3, 9, 9)
        else:
            with pytest.raises(UserError, match=rf"pixels of {gsd_m:g} m .*got {got}"):
                image_of(tmp_path, known)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32632", "EPSG:3857", "EPSG:3035", "EPSG:2263"])
def test_the_size_of_a_pixel_is_a_distance_on_the_ellipsoid(crs: str) -> None:
    """Against distances between corners that pyproj transforms and measures on WGS 84."""
    step, left, top = {
        "EPSG:4326": (1e-3, 11.0, 46.0),
        "EPSG:2263": (10.0, 980_000.0, 200_000.0),
        "EPSG:3035": (10.0, 4.4e6, 2.6e6),
    }.get(crs, (10.0, 6e5, 5.1e6))
    grid = make_grid(3, 3, (step, 0, left, 0, -2 * step, top), crs)
    to_degrees = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    x, y = left + 1.5 * step, top - 3 * step
    lon, lat = to_degrees.transform([x - step, x + step, x, x], [y, y, y - 2 * step, y + 2 * step])
    _, _, (wide, high) = pyproj.Geod(ellps="WGS84").inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    assert measure_pixel_m(grid) == pytest.approx((wide / 2, high / 2), rel=1e-4)


def test_a_date_is_written_as_anybody_writes_it(tmp_path: Path) -> None:
    for written in ("2023-06-01", "'2023-06-01'", "2023-06-01T10:20:30Z", "2023-06-01 10:20:30"):
        card(tmp_path, RASTER)
        text = (tmp_path / "set.yaml").read_text()
        (tmp_path / "dated.yaml").write_text(f"{text}datetime: {written}\n")
        known = load_card(tmp_path / "dated.yaml")
        assert known.datetime == written.strip("'")
