"""Generated Sentinel-2 SAFE products: read back by GDAL's SENTINEL2 driver and TorchGeo, and judged by hand-written formulas."""

from __future__ import annotations

import hashlib
import re
import warnings
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import rasterize
from shapely.geometry import Polygon

from eo_ssl.errors import UserError
from worlds.safe import S2SafeSpec, S2SafeTruth, make_s2_safe, s2_product, s2_scene
from worlds.safe.s2_scene import compute_rayleigh
from worlds.safe.s2_spec import locate_corner

SIZE = 120
BASELINES = ("02.09", "03.01", "04.00", "05.09", "05.11")


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], S2SafeTruth]:
    folder = tmp_path_factory.mktemp("s2")
    specs = [
        S2SafeSpec(level=level, baseline=b, size_px=SIZE, saturated=4) for level in ("L1C", "L2A") for b in BASELINES
    ]
    return {(spec.level, spec.baseline): make_s2_safe(folder, spec) for spec in specs}


def _metadata(truth: S2SafeTruth) -> ET.Element:
    return ET.parse(truth.path / f"MTD_MSI{truth.spec.level}.xml").getroot()


def _texts(root: ET.Element, name: str) -> list[str]:
    return [element.text or "" for element in root.iter(name)]


def _subdatasets(path: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            assert dataset.driver == "SENTINEL2"
            return [name for name in dataset.subdatasets if ":TCI:" not in name]


@pytest.mark.parametrize("level", ["L1C", "L2A"])
@pytest.mark.parametrize("baseline", ["02.09", "05.09", "05.11"])
def test_gdal_driver_reads_what_was_planted(
    products: dict[tuple[str, str], S2SafeTruth], level: str, baseline: str
) -> None:
    truth = products[level, baseline]
    seen = set()
    for name in _subdatasets(str(truth.path / f"MTD_MSI{level}.xml")):
        with rasterio.open(name) as dataset:
            gsd = round(dataset.transform.a)
            assert dataset.transform.to_gdal() == (699960.0, gsd, 0.0, 4700040.0, 0.0, -gsd)
            assert dataset.crs.to_epsg() == 32632
            for index in dataset.indexes:
                band = dataset.tags(index)["BANDNAME"]
                if band == "SCL":
                    expected = truth.scl if gsd == 20 else truth.scl[1::3, 1::3]
                    assert np.array_equal(dataset.read(index), expected)
                elif band == "CLD" and gsd == 20:
                    assert np.array_equal(dataset.read(index), truth.cloud_probability)
                elif re.fullmatch(r"B\d+A?", band):
                    band = "B" + band[1:].zfill(2)
                    assert np.array_equal(dataset.read(index), truth.dn(band, gsd)), band
                    seen.add(band)
    assert seen == set(truth.spec.bands)


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_all_baselines_give_one_reflectance(products: dict[tuple[str, str], S2SafeTruth], level: str) -> None:
    for band in products[level, "02.09"].spec.bands:
        exact = products[level, "02.09"].reflectance[band]
        for baseline in BASELINES:
            truth = products[level, baseline]
            offset = -1000.0 if baseline >= "04" else 0.0
            numbers = truth.dn(band).astype(np.float64)
            invalid = (numbers == 0) | (numbers == 65535)
            recovered = np.where(invalid, np.nan, (numbers + offset) / 10000.0)
            assert np.array_equal(np.isnan(exact), invalid)
            assert np.nanmax(np.abs(recovered - exact)) <= 0.00005 + 1e-9


def test_metadata_say_how_numbers_are_encoded(products: dict[tuple[str, str], S2SafeTruth]) -> None:
    for (level, baseline), truth in products.items():
        root = _metadata(truth)
        element = "RADIO_ADD_OFFSET" if level == "L1C" else "BOA_ADD_OFFSET"
        assert _texts(root, element) == (["-1000"] * 13 if baseline >= "04" else [])
        scale = "QUANTIFICATION_VALUE" if level == "L1C" else "BOA_QUANTIFICATION_VALUE"
        assert _texts(root, scale) == ["10000"]
        assert _texts(root, "PROCESSING_BASELINE") == [baseline]
        assert _texts(root, "SPECIAL_VALUE_INDEX") == ["0", "65535"]
        bands = {e.get("bandId"): e.get("physicalBand") for e in root.iter("Spectral_Information")}
        assert bands["0"] == "B1" and bands["8"] == "B8A" and bands["9"] == "B9" and bands["12"] == "B12"
        assert truth.name == (
            f"S2A_MSI{level}_20220715T101031_N{baseline.replace('.', '')}_R022_T32TQM_20220715T123456.SAFE"
        )
        for name in _texts(root, "IMAGE_FILE"):
            assert (truth.path / f"{name}.jp2").is_file()


def test_torchgeo_stacks_the_same_numbers(products: dict[tuple[str, str], S2SafeTruth]) -> None:
    from torchgeo.datasets import Sentinel2

    truth = products["L2A", "05.09"]
    bands = ["B02", "B03", "B04", "B08"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = Sentinel2(truth.path, res=10, bands=bands)
        sample = dataset[dataset.bounds]["image"].numpy()
    for index, band in enumerate(bands):
        assert np.array_equal(sample[index], truth.dn(band).astype(np.float32))


@pytest.mark.parametrize(("baseline", "algorithm"), [("02.09", "MD5"), ("03.01", "SHA3-256"), ("05.09", "SHA3-256")])
@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_manifest_lists_every_file_with_its_checksum(
    products: dict[tuple[str, str], S2SafeTruth], level: str, baseline: str, algorithm: str
) -> None:
    truth = products[level, baseline]
    listed = set()
    for stream in ET.parse(truth.path / "manifest.safe").getroot().iter("byteStream"):
        location, checksum = stream.find("fileLocation"), stream.find("checksum")
        assert location is not None and checksum is not None
        name = location.attrib["href"].removeprefix("./")
        data = (truth.path / name).read_bytes()
        made = hashlib.md5(data) if algorithm == "MD5" else hashlib.sha3_256(data)
        assert checksum.attrib["checksumName"] == algorithm
        assert (checksum.text or "").lower() == made.hexdigest()
        assert int(stream.attrib["size"]) == len(data)
        listed.add(name)
    present = {path.relative_to(truth.path).as_posix() for path in truth.path.rglob("*") if path.is_file()}
    assert present == listed | {"manifest.safe"}


def test_cloud_masks_agree_between_the_formats(products: dict[tuple[str, str], S2SafeTruth]) -> None:
    old, new = products["L1C", "03.01"], products["L1C", "05.09"]
    gml = ET.parse(next(old.path.glob("GRANULE/*/QI_DATA/MSK_CLOUDS_B00.gml"))).getroot()
    space = {"eop": "http://www.opengis.net/eop/2.0", "gml": "http://www.opengis.net/gml/3.2"}
    shapes: dict[str, list[Polygon]] = {"OPAQUE": [], "CIRRUS": []}
    for feature in gml.iterfind("eop:maskMembers/eop:MaskFeature", space):
        rings = [
            np.array((ring.text or "").split(), dtype=float).reshape(-1, 2)
            for ring in feature.iterfind(".//gml:posList", space)
        ]
        shapes[feature.findtext("eop:maskType", "", space)].append(Polygon(rings[0], rings[1:]))
    with rasterio.open(next(new.path.glob("GRANULE/*/QI_DATA/MSK_CLASSI_B00.jp2"))) as mask:
        raster, grid = mask.read(), mask.transform
    for index, (kind, truth) in enumerate((("OPAQUE", new.opaque), ("CIRRUS", new.cirrus))):
        assert np.array_equal(raster[index].astype(bool), truth)
        drawn = (
            rasterize(shapes[kind], out_shape=truth.shape, transform=grid) if shapes[kind] else np.zeros(truth.shape)
        )
        assert np.array_equal(drawn.astype(bool), truth)
    assert new.opaque.any() and new.cirrus.any()


def test_top_of_atmosphere_follows_from_the_surface(products: dict[tuple[str, str], S2SafeTruth]) -> None:
    above, below = products["L1C", "05.09"], products["L2A", "05.09"]
    for band in below.spec.bands:
        path, through = compute_rayleigh(band, above.sun[0])
        # The surface is clipped at one count before and after the air is put over it.
        assert np.nanmax(np.abs(path + through * below.reflectance[band] - above.reflectance[band])) < 2e-4
    # By hand: optical depth of the air at 0.4927 um is 0.1525, that at 1.6137 um 0.00127 (Hansen and Travis 1974).
    assert compute_rayleigh("B02", 0.0)[0] == pytest.approx(0.1525 * 0.375, rel=2e-3)
    assert compute_rayleigh("B11", 0.0)[0] == pytest.approx(0.00127 * 0.375, rel=1e-2)


def test_cirrus_band_is_dark_but_under_cirrus(products: dict[tuple[str, str], S2SafeTruth]) -> None:
    truth = products["L1C", "05.09"]
    values = truth.reflectance["B10"]
    clear = ~truth.cloud & ~truth.nodata(60)
    low, high = np.percentile(values[clear], [5, 50])
    assert 0.0009 < low < high < 0.005
    assert np.median(values[truth.cirrus & ~truth.nodata(60)]) > 0.01


def test_angles_of_the_tile(products: dict[tuple[str, str], S2SafeTruth]) -> None:
    truth = products["L1C", "04.00"]
    root = ET.parse(next(truth.path.glob("GRANULE/*/MTD_TL.xml"))).getroot()
    mean = root.find(".//Mean_Sun_Angle")
    assert mean is not None
    # By hand for 42.4 N 11.4 E: declination 21.5 degrees, equation of time -6 min, hour angle -16.5 degrees, so that
    # cos z = sin 42.4 sin 21.5 + cos 42.4 cos 21.5 cos 16.5 = 0.906: 25.05 degrees from the zenith, azimuth 141.4.
    zenith, azimuth = float(mean.findtext("ZENITH_ANGLE") or 0), float(mean.findtext("AZIMUTH_ANGLE") or 0)
    assert zenith == pytest.approx(25.05, abs=1.5) and azimuth == pytest.approx(141.4, abs=4.0)
    views = {e.get("bandId"): float(e.findtext("ZENITH_ANGLE") or 0) for e in root.iter("Mean_Viewing_Incidence_Angle")}
    assert views["3"] == truth.view("B04")[0] and views["8"] == truth.view("B8A")[0] and len(views) == 13
    assert (root.findtext(".//SENSING_TIME") or "") == "2022-07-15T10:14:38.271949Z"


@pytest.mark.parametrize(
    ("tile", "expected"),
    [
        ("46RER", (32646, 499980, 3100020)),  # these three from the metadata of real products
        ("34UCF", (32634, 300000, 6100020)),
        ("31TGJ", (32631, 699960, 4900020)),
        ("01LAC", (32701, 99960, 8300040)),
    ],
)
def test_tiles_lie_where_real_ones_do(tile: str, expected: tuple[int, int, int]) -> None:
    assert locate_corner(tile) == expected


@pytest.mark.parametrize(
    ("platform", "when", "relative", "orbit"),
    [
        ("S2A", "2021-09-08T04:27:01Z", 133, 32448),  # from the names and metadata of real products
        ("S2A", "2022-10-05T11:54:11Z", 23, 38058),
        ("S2B", "2022-04-13T15:07:59Z", 25, 26649),
        ("S2C", "2025-12-01T10:24:11Z", 65, 6470),
    ],
)
def test_orbit_numbers_agree_with_real_products(platform: str, when: str, relative: int, orbit: int) -> None:
    assert S2SafeSpec(platform=platform, datetime=when, relative_orbit=relative).orbit == orbit


def test_zip_holds_the_same_bytes_and_can_be_repeated(
    products: dict[tuple[str, str], S2SafeTruth], tmp_path: Path
) -> None:
    folder = products["L1C", "05.09"]
    paths = [make_s2_safe(tmp_path / name, folder.spec, zipped=True).path for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with zipfile.ZipFile(paths[0]) as archive:
        names = [info.filename for info in archive.infolist()]
        assert all((folder.path.parent / name).read_bytes() == archive.read(name) for name in names)
    assert len(names) == sum(path.is_file() for path in folder.path.rglob("*"))


def test_interrupted_product_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(s2_product, "render_manifest", broken)
    with pytest.raises(UserError, match="full disk"):
        make_s2_safe(tmp_path, S2SafeSpec(size_px=96, complete=False))
    assert list(tmp_path.iterdir()) == []


def test_larger_products_repeat_the_part_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s2_scene, "PART_PX", 120)
    truth = make_s2_safe(tmp_path, S2SafeSpec(level="L1C", size_px=360, edge=False, saturated=0, block_px=256))
    image = truth.dn("B08").astype(np.int64)
    assert np.array_equal(image[:, 120:240], image[:, :120][:, ::-1])
    with rasterio.open(next(truth.path.glob("GRANULE/*/IMG_DATA/*_B08.jp2"))) as dataset:
        assert dataset.block_shapes == [(256, 256)]
        assert np.array_equal(dataset.read(1), image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 100}, "multiple of 6"),
        ({"tile": "32TZM"}, "expected a tile such as"),
        ({"tile": "99TQM"}, "expected a tile such as"),
        ({"baseline": "4"}, "processing baseline"),
        ({"platform": "S1A"}, "platform"),
    ],
)
def test_impossible_products_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        S2SafeSpec(**change)  # type: ignore[arg-type]
