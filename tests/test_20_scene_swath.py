"""NetCDF swaths, whose latitude and longitude are given for each pixel: read without a place, which is said aloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import yaml

from eo_ssl.cards import Card, load_card
from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.errors import UserError
from eo_ssl.scene import list_products
from eo_ssl.workflows.ingest import main as run_ingest

CARD = {
    "title": "synthetic",
    "licence": "Apache-2.0",
    "attribution": "made in a test",
    "source": "a test",
    "sensor": "sentinel2_l2a",
    "reader": "array",
    "files": "*.nc",
    "bands": ["B04"],
    "quantity": "boa_reflectance",
    "gsd_m": 20.0,
    "scale": 1e-4,
    "array": {"dims": "yx", "variables": {"red": "red"}},
}
UNPLACED = "latitude and longitude of each pixel (lat, lon) are not read: its tiles have no place"
BY_NAME = ({"standard_name": "latitude"}, {"standard_name": "longitude"})
BY_UNITS = ({"units": "degrees_north"}, {"units": "degreeE"})
COUNTS = np.arange(64.0)


def write(path: Path, *, says: tuple[dict[str, str], ...] = BY_NAME, along: tuple[Any, Any] = (None, None)) -> None:
    """A tilted swath of 64 x 64 px with its latitudes and longitudes, and with coordinates of rows and columns."""
    rows, columns = np.mgrid[:64, :64]
    with netCDF4.Dataset(path, "w") as file:
        for name, values in zip(("y", "x"), along, strict=True):
            file.createDimension(name, 64)
            if values is not None:
                file.createVariable(name, "f8", (name,))[:] = values
        planes = (45 - 2e-4 * rows + 1e-4 * columns, 11 + 2e-4 * columns + 1e-4 * rows)
        for name, plane, attributes in zip(("lat", "lon"), planes, says, strict=True):
            variable = file.createVariable(name, "f8", ("y", "x"))
            variable[:] = plane
            variable.setncatts(attributes)
        red = file.createVariable("red", "i2", ("y", "x"))
        red.set_auto_maskandscale(False)
        red.setncatts({"coordinates": "lat lon"})
        red[:] = (1000 + 10 * rows + columns).astype("i2")


def card(folder: Path, **changes: Any) -> Card:
    (folder / "swath.yaml").write_text(yaml.safe_dump(CARD | changes))
    return load_card(folder / "swath.yaml")


def remark(folder: Path, **changes: Any) -> str:
    (product,) = list_products(card(folder, **changes), folder).products
    return product.acquisition.remarks


@pytest.mark.parametrize("says", [BY_NAME, BY_UNITS])
@pytest.mark.parametrize("along", [(None, None), (COUNTS, COUNTS)], ids=["no coordinates", "numbered"])
def test_a_swath_has_no_place_and_says_so(tmp_path: Path, says: Any, along: Any) -> None:
    write(tmp_path / "a.nc", says=says, along=along)
    assert remark(tmp_path) == UNPLACED
    found = list_products(card(tmp_path), tmp_path)
    report = ingest(found.products, out=tmp_path / "out", config=IngestConfig(size_px=32), client="synchronous")
    assert report.remarks == (("swath/a", UNPLACED),)
    corpus = Corpus.open(tmp_path / "out")
    (stream,) = corpus.streams
    rows = corpus.index(stream).to_pylist()
    assert len(rows) == 4 and {row["remarks"] for row in rows} == {UNPLACED}
    assert {row["bbox_xmin"] if "bbox_xmin" in row else row["xmin"] for row in rows} == {None}
    assert {row["geometry"] for row in rows} == {None} and {row["location_id"] for row in rows} == {"swath/a"}
    with pytest.raises(UserError, match="expected a georeferenced product for the grid tiling"):
        ingest(found.products, out=tmp_path / "b", config=IngestConfig(size_px=32, tiling="grid"), client="synchronous")


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.nc")
    write(tmp_path / "b.nc")
    card(tmp_path)
    run_ingest(str(tmp_path / "swath.yaml"), tmp_path, tmp_path / "out", size_px=32, dask="synchronous")
    assert f"remark on swath/a and 1 more: {UNPLACED}" in capsys.readouterr().out


def test_coordinates_of_rows_and_columns_go_before_it(tmp_path: Path) -> None:
    """A projected grid may hold latitudes and longitudes for those who want them."""
    write(tmp_path / "a.nc", along=(5_000_010 - 20 * COUNTS, 600_010 + 20 * COUNTS))
    assert remark(tmp_path, crs="EPSG:32632") == ""
    (product,) = list_products(card(tmp_path, crs="EPSG:32632"), tmp_path).products
    assert product.open().attrs["crs"] == "EPSG:32632"


def test_a_place_from_the_card_is_said_to_be_that(tmp_path: Path) -> None:
    write(tmp_path / "a.nc")
    place = {"crs": "EPSG:32632", "transform": [20.0, 0.0, 600_000.0, 0.0, -20.0, 5_000_000.0]}
    assert remark(tmp_path, **place) == UNPLACED.replace("its tiles have no place", "its place is that of the card")


@pytest.mark.parametrize(
    "says", [({}, {}), ({"units": "degrees_north"}, {"units": "m"}), ({"units": "K"}, {"units": "K"})]
)
def test_other_planes_beside_an_image_are_none(tmp_path: Path, says: Any) -> None:
    write(tmp_path / "a.nc", says=says)
    assert remark(tmp_path) == ""
