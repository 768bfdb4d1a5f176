"""Generated Sentinel-1 SAFE products: read back by GDAL's SAFE driver and xarray-sentinel, judged by hand-written formulas."""

from __future__ import annotations

import hashlib
import re
import warnings
import xml.etree.ElementTree as ET
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray_sentinel
from pyproj import Transformer
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from eo_ssl.errors import UserError
from worlds.safe import (
    S1GrdSpec,
    S1GrdTruth,
    S1WvSpec,
    S1WvTruth,
    make_s1_grd_from_annotation,
    make_s1_grd_safe,
    make_s1_wv_safe,
)
from worlds.safe.s1_spec import count_orbits, number_relative_orbit

LIGHT = 299_792_458.0
SPECS = {
    "new": S1GrdSpec(lines=300, samples=420, seed=3),
    "old": S1GrdSpec(
        mode="S3",
        ipf="002.36",
        noise="range",
        lines=220,
        samples=300,
        looks=None,
        ascending=True,
        centre=(-33.0, 151.0),
    ),
    "wide": S1GrdSpec(
        mode="EW", polarisations=("HH", "HV"), noise="none", lines=200, samples=260, centre=(68.0, -30.0), looks=None
    ),
    "zero": S1GrdSpec(
        polarisations=("VV",), ipf="002.36", noise="zero", lines=150, samples=160, looks=None, height_m=400.0
    ),
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, S1GrdTruth]:
    folder = tmp_path_factory.mktemp("s1")
    return {name: make_s1_grd_safe(folder, spec) for name, spec in SPECS.items()}


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> S1WvTruth:
    return make_s1_wv_safe(tmp_path_factory.mktemp("wv"), S1WvSpec(vignettes=3, extent_m=2000.0))


def _xml(truth: S1GrdTruth | S1WvTruth, pattern: str) -> ET.Element:
    return ET.parse(sorted(truth.path.glob(pattern))[0]).getroot()


@pytest.mark.parametrize("name", list(SPECS))
def test_gdal_driver_reads_what_was_planted(scenes: dict[str, S1GrdTruth], name: str) -> None:
    truth = scenes[name]
    with rasterio.open(truth.path / "manifest.safe") as dataset:
        assert dataset.driver == "SAFE" and dataset.count == len(truth.spec.polarisations)
        for index in dataset.indexes:
            assert np.array_equal(dataset.read(index), truth.dn[dataset.tags(index)["POLARIZATION"]])
        points, crs = dataset.gcps
        assert crs.to_epsg() == 4326 and len(points) == 210
        latitude, longitude = truth.locate([p.row for p in points], [p.col for p in points])
        assert np.allclose([p.y for p in points], latitude, rtol=0, atol=1e-12)
        assert np.allclose([p.x for p in points], longitude, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["new", "old"])
def test_xarray_sentinel_calibrates_to_the_planted_backscatter(scenes: dict[str, S1GrdTruth], name: str) -> None:
    truth = scenes[name]
    group = f"{truth.spec.mode}/VV"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DeprecationWarning of np.fromstring in xarray-sentinel
        image = xarray_sentinel.open_sentinel1_dataset(str(truth.path), group=group)
        table = xarray_sentinel.open_sentinel1_dataset(str(truth.path), group=f"{group}/calibration")
        sigma0 = xarray_sentinel.calibrate_intensity(image.measurement, table.sigmaNought).values
        ties = xarray_sentinel.open_sentinel1_dataset(str(truth.path), group=f"{group}/gcp")
    assert np.array_equal(image.measurement.values, truth.dn["VV"])
    expected = truth.dn["VV"].astype(float) ** 2 / truth.calibration("VV") ** 2
    assert np.allclose(sigma0, expected, rtol=2e-6)  # xarray-sentinel interpolates in single precision
    assert ties.sizes == {"azimuth_time": 10, "slant_range_time": 21}


def test_noise_annotation_has_the_format_of_its_version(scenes: dict[str, S1GrdTruth]) -> None:
    new, old, zero = (_xml(scenes[name], "annotation/calibration/noise-*.xml") for name in ("new", "old", "zero"))
    assert [child.tag for child in new] == ["adsHeader", "noiseRangeVectorList", "noiseAzimuthVectorList"]
    assert [child.tag for child in old] == ["adsHeader", "noiseVectorList"]
    assert [e.findtext("swath") for e in new.iter("noiseAzimuthVector")] == ["IW1", "IW2", "IW3"]
    counts = {e.get("count") for e in old.iter("noiseLut")}
    assert len(counts) == 2  # vectors of one table differ in length, as in real products
    assert {float(v) for e in zero.iter("noiseLut") for v in (e.text or "").split()} == {0.0}
    assert not list(scenes["wide"].path.glob("annotation/calibration/noise-*"))


def test_stored_numbers_follow_the_formula(scenes: dict[str, S1GrdTruth]) -> None:
    """DN^2 = sigma0 A^2 + noise with the tables as printed, interpolated here by hand at one pixel of the old format."""
    truth = scenes["old"]
    calibration = _xml(truth, "annotation/calibration/calibration-*-vv-*.xml")
    noise = _xml(truth, "annotation/calibration/noise-*-vv-*.xml")

    def at(vector: ET.Element, name: str, sample: int) -> float:
        pixels = [int(v) for v in (vector.findtext("pixel") or "").split()]
        values = [float(v) for v in (vector.findtext(name) or "").split()]
        right = next(i for i, pixel in enumerate(pixels) if pixel > sample)
        share = (sample - pixels[right - 1]) / (pixels[right] - pixels[right - 1])
        return (1 - share) * values[right - 1] + share * values[right]

    vectors, noises = list(calibration.iter("calibrationVector")), list(noise.iter("noiseVector"))
    assert [vectors[1].findtext("line"), vectors[2].findtext("line")] == ["100", "200"]
    for line, sample in ((130, 97), (175, 211)):
        share = (line - 100) / 100
        table = (1 - share) * at(vectors[1], "sigmaNought", sample) + share * at(vectors[2], "sigmaNought", sample)
        level = (1 - share) * at(noises[1], "noiseLut", sample) + share * at(noises[2], "noiseLut", sample)
        power = float(truth.sigma0["VV"][line, sample]) * table**2 + level
        assert truth.dn["VV"][line, sample] == round(power**0.5)


@pytest.mark.parametrize("name", ["old", "wide", "zero"])
def test_backscatter_is_recovered_within_the_rounding(scenes: dict[str, S1GrdTruth], name: str) -> None:
    truth = scenes[name]
    for polarisation in truth.spec.polarisations:
        number, table = truth.dn[polarisation].astype(float), truth.calibration(polarisation)
        recovered = (number**2 - truth.noise[polarisation]) / table**2
        error = np.abs(recovered - truth.sigma0[polarisation])[~truth.border]
        assert np.all(error <= ((number + 0.25) / table**2)[~truth.border])  # half a DN: d(DN^2) = DN + 1/4


def test_speckle_multiplies_signal_and_noise(scenes: dict[str, S1GrdTruth]) -> None:
    truth = scenes["new"]
    power = truth.sigma0["VV"] * truth.calibration("VV") ** 2 + truth.noise["VV"]
    ratio = (truth.dn["VV"].astype(float) ** 2 / power)[~truth.border]
    error = 4 * np.sqrt(1 / 4.4 / ratio.size)
    assert ratio.mean() == pytest.approx(1.0, abs=error)
    assert 1 / ratio.var() == pytest.approx(4.4, rel=0.05)  # equivalent number of looks


def test_tie_points_obey_range_and_doppler(scenes: dict[str, S1GrdTruth]) -> None:
    """The printed state vectors, slant range times and positions agree: an independent check with pyproj and polynomials."""
    for truth in scenes.values():
        product = _xml(truth, "annotation/*.xml")
        start = datetime.fromisoformat(product.findtext("adsHeader/startTime") or "")
        interval = float(product.findtext(".//azimuthTimeInterval") or 0)
        states = list(product.iter("orbit"))
        times = np.array([(datetime.fromisoformat(s.findtext("time") or "") - start).total_seconds() for s in states])
        places = np.array([[float(s.findtext(f"position/{axis}") or 0) for axis in "xyz"] for s in states])
        fits = [np.polynomial.Polynomial.fit(times, places[:, axis], 9) for axis in range(3)]
        to_ecef = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
        for point in list(product.iter("geolocationGridPoint"))[::17]:
            values = {child.tag: child.text or "" for child in point}
            when = int(values["line"]) * interval
            ground = np.array(to_ecef.transform(*(float(values[k]) for k in ("longitude", "latitude", "height"))))
            sight = ground - np.array([fit(when) for fit in fits])
            speed = np.array([fit.deriv()(when) for fit in fits])
            assert np.linalg.norm(sight) == pytest.approx(float(values["slantRangeTime"]) * LIGHT / 2, abs=0.01)
            assert abs(sight @ speed) / np.linalg.norm(speed) < 0.01  # metres along the track
            up = ground / np.array([6378137.0, 6378137.0, 6356752.314245]) ** 2
            angle = np.degrees(np.arccos(-sight @ up / np.linalg.norm(sight) / np.linalg.norm(up)))
            assert angle == pytest.approx(float(values["incidenceAngle"]), abs=1e-3)


def test_range_polynomials_are_inverse_of_each_other(scenes: dict[str, S1GrdTruth]) -> None:
    for truth in scenes.values():
        row = _xml(truth, "annotation/*.xml").find(
            ".//coordinateConversion/coordinateConversionList/coordinateConversion"
        )
        assert row is not None
        slant = np.polynomial.Polynomial([float(v) for v in (row.findtext("grsrCoefficients") or "").split()])
        ground = np.polynomial.Polynomial([float(v) for v in (row.findtext("srgrCoefficients") or "").split()])
        there = truth.spec.spacing_m * np.arange(truth.spec.samples)
        back = ground(slant(there) - float(row.findtext("sr0") or 0))
        assert np.abs(back - there).max() < 0.02  # metres
        assert np.allclose(truth.geometry.slant_range(np.arange(truth.spec.samples)), slant(there), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("platform", "absolute", "relative", "when"),
    [
        ("S1A", 36201, 79, "2021-01-19T03:16:53Z"),  # from the names of real products and the tracks they lie on
        ("S1C", 3550, 54, "2025-08-06T09:22:31Z"),
        ("S1D", 3945, 54, "2026-08-02T09:22:31Z"),
        ("S1D", 4326, 85, "2026-08-28T12:21:16Z"),
    ],
)
def test_orbit_numbers_agree_with_real_products(platform: str, absolute: int, relative: int, when: str) -> None:
    assert number_relative_orbit(absolute, platform) == relative
    assert abs(count_orbits(datetime.fromisoformat(when), platform) - absolute) <= 1


def test_pass_and_look_direction(scenes: dict[str, S1GrdTruth]) -> None:
    for truth in scenes.values():
        manifest = (truth.path / "manifest.safe").read_text()
        assert f"<s1:pass>{'ASCENDING' if truth.spec.ascending else 'DESCENDING'}</s1:pass>" in manifest
        latitude, _ = truth.locate([0, truth.spec.lines - 1], [0, 0])
        assert (latitude[1] > latitude[0]) == truth.spec.ascending
        # A right-looking radar sees the east from an ascending pass.
        _, across = truth.locate([0, 0], [0, truth.spec.samples - 1])
        assert (across[1] > across[0]) == truth.spec.ascending
        middle = truth.locate((truth.spec.lines - 1) / 2, (truth.spec.samples - 1) / 2)
        assert np.allclose(middle, truth.spec.centre, atol=0.01)


def test_border_noise_is_low_before_and_zero_since(scenes: dict[str, S1GrdTruth]) -> None:
    for truth in scenes.values():
        for numbers in truth.dn.values():
            low = numbers[truth.border]
            assert low.max() == 0 if truth.spec.new_format else 0 < low.max() < numbers[~truth.border].min()


@pytest.mark.parametrize("name", ["new", "wave"])
def test_manifest_checksums(scenes: dict[str, S1GrdTruth], waves: S1WvTruth, name: str) -> None:
    path = (waves if name == "wave" else scenes[name]).path
    listed = {}
    for stream in ET.parse(path / "manifest.safe").getroot().iter("byteStream"):
        location = stream.find("fileLocation")
        assert location is not None
        listed[location.attrib["href"].removeprefix("./")] = stream.findtext("checksum")
    found = [file for file in path.rglob("*") if file.is_file() and file.name != "manifest.safe"]
    assert {file.relative_to(path).as_posix(): hashlib.md5(file.read_bytes()).hexdigest() for file in found} == listed


def test_equal_specs_give_equal_bytes(tmp_path: Path) -> None:
    spec = S1GrdSpec(lines=80, samples=90, border_px=4)
    paths = [make_s1_grd_safe(tmp_path / name, spec, zipped=True).path for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    other = make_s1_grd_safe(tmp_path / "c", S1GrdSpec(lines=80, samples=90, border_px=4, seed=1), zipped=True).path
    assert other.read_bytes() != paths[0].read_bytes() and other.name != paths[0].name


def test_vignettes_alternate_along_the_track(waves: S1WvTruth) -> None:
    assert [v.swath for v in waves.vignettes] == ["WV1", "WV2", "WV1"]
    assert [round(v.incidence_deg) for v in waves.vignettes] == [24, 37, 24]
    names = sorted(path.name for path in (waves.path / "measurement").iterdir())
    assert [re.sub(r"\d{8}t\d{6}", "T", name) for name in names] == [
        "s1a-wv1-slc-vv-T-T-038788-048644-001.tiff",
        "s1a-wv1-slc-vv-T-T-038788-048644-003.tiff",
        "s1a-wv2-slc-vv-T-T-038788-048644-002.tiff",
    ]
    apart = (waves.vignettes[2].datetime - waves.vignettes[0].datetime).total_seconds()
    assert apart == pytest.approx(29.4, abs=1e-3)
    (south, _), (north, _) = waves.vignettes[2].position, waves.vignettes[0].position
    # 29.4 s of a descending pass at 6.8 km/s over the ground are 200 km, nearly all of them southwards.
    assert 1.6 < north - south < 1.8
    # The grid on the ground: 4.1 m along the track and 1.7 m / sin(24.1 deg) = 4.16 m across it.
    geometry = waves.vignettes[0].geometry
    line, sample, origin = geometry.point(100, 0), geometry.point(0, 100), geometry.point(0, 0)
    assert np.linalg.norm(line - origin) == pytest.approx(410.0, abs=0.5)
    assert np.linalg.norm(sample - origin) == pytest.approx(416.0, abs=4.0)


def test_vignettes_hold_the_planted_backscatter(waves: S1WvTruth) -> None:
    for vignette in waves.vignettes:
        name = f"SENTINEL1_CALIB:UNCALIB:{waves.path}/manifest.safe:{vignette.swath}_VV_{vignette.image.number:03d}:COMPLEX"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(name) as dataset:
                assert dataset.driver == "SAFE" and dataset.dtypes == ("complex_int16",)
                stored = dataset.read(1)
        assert np.array_equal(stored, vignette.numbers())
        lines, samples = (np.arange(count) for count in stored.shape)
        noise = vignette.tables.noise_at(lines, samples)
        table = vignette.tables.calibration_at(lines, samples)
        estimate = (np.abs(stored.astype(np.complex128)) ** 2 - 1 / 6 - noise) / table**2
        truth = vignette.sigma0(lines, samples)
        # Single look: the standard deviation of the mean is that of one value over the square root of their number.
        spread = np.sqrt(np.mean((truth + noise / table**2) ** 2) / truth.size)
        assert estimate.mean() == pytest.approx(truth.mean(), abs=4 * spread)
        power = np.abs(stored.astype(np.complex128)) ** 2 / vignette.power(lines, samples)
        assert power.var() / power.mean() ** 2 == pytest.approx(1.0, abs=0.03)  # one look
        assert abs(np.mean(stored)) < 4 * np.sqrt(np.mean(vignette.power(lines, samples)) / stored.size)


def test_vignettes_without_speckle_are_exact(tmp_path: Path) -> None:
    spec = S1WvSpec(vignettes=2, extent_m=1000.0, speckle=False, ipf="002.84", noise="old")
    for vignette in make_s1_wv_safe(tmp_path, spec).vignettes:
        stored = np.abs(vignette.numbers().astype(np.complex128))
        lines, samples = (np.arange(count) for count in stored.shape)
        assert np.abs(stored - np.sqrt(vignette.power(lines, samples))).max() <= np.sqrt(0.5) + 1e-9


@pytest.mark.parametrize(
    "stem", ["20150203T043109_20150203T043134_004454_00574F_6D00", "20210119T031653_20210119T031718_036201_043ED0_8255"]
)
def test_real_annotation_stays_as_it_is(real_data: Path, tmp_path: Path, stem: str) -> None:
    archive = real_data / "s1_grd_annotations" / f"S1A_IW_GRDH_1SDV_{stem}.zip"
    truth = make_s1_grd_from_annotation(tmp_path, archive, window=(96, 128), seed=2)
    for stream in ET.parse(truth.path / "manifest.safe").getroot().iter("byteStream"):
        location = stream.find("fileLocation")
        assert location is not None
        data = (truth.path / location.attrib["href"]).read_bytes()
        # The checksums of all but the measurements are those of the real manifest.
        assert hashlib.md5(data).hexdigest() == stream.findtext("checksum") and len(data) == int(stream.attrib["size"])
    with rasterio.open(truth.path / "manifest.safe") as dataset:
        assert dataset.shape == truth.shape and min(truth.shape) > 16_000
        window = Window(truth.origin[1], truth.origin[0], 128, 96)
        for index in dataset.indexes:
            assert np.array_equal(dataset.read(index, window=window), truth.dn[dataset.tags(index)["POLARIZATION"]])
    group = "IW/VV"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = xarray_sentinel.open_sentinel1_dataset(str(truth.path), group=f"{group}/calibration").sigmaNought
        lines = np.clip(truth.origin[0] + np.arange(96), 0, None)
        grid = table.astype(float).interp(line=lines, pixel=truth.origin[1] + np.arange(128)).values
    recovered = (truth.dn["VV"].astype(float) ** 2 - truth.noise["VV"]) / grid**2
    assert np.all(np.abs(recovered - truth.sigma0["VV"]) <= (truth.dn["VV"] + 0.3) / grid**2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "WV"}, "expected a mode out of"),
        ({"polarisations": ("VH",)}, "one polarisation"),
        ({"noise": "range"}, "version 002.90"),
        ({"border_px": 300}, "less than half"),
        ({"lines": 60}, "at least 64 lines"),
    ],
)
def test_impossible_products_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        S1GrdSpec(**change)  # type: ignore[arg-type]
