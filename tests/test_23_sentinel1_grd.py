"""GRD products end to end: power of known scenes on the map, border noise, windows, listing, refusals."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from scipy.ndimage import map_coordinates

from eo_ssl.cards import Card, Radar, load_card
from eo_ssl.errors import UserError
from eo_ssl.scene.grids import measure_gsd, read_crs
from eo_ssl.scene.layers import Layers
from eo_ssl.scene.product import Product
from eo_ssl.scene.readers import list_products
from eo_ssl.scene.sentinel1.border import measure_border
from eo_ssl.scene.sentinel1.geocoding import GrdImage
from eo_ssl.scene.sentinel1.grd_product import list_grd_products
from eo_ssl.scene.sentinel1.power import RadarImage
from eo_ssl.sensors import Quantity
from safe_products import radar_safe, relisted
from worlds.safe import S1GrdSpec, S1GrdTruth, make_s1_grd_safe

CLEAN = S1GrdSpec(lines=330, samples=420, looks=None, border_px=0, seed=3)
OLD = S1GrdSpec(
    lines=330, samples=420, ipf="002.71", noise="range", ascending=True, datetime="2016-05-01T05:00:00Z", seed=4
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> S1GrdTruth:
    """A product without speckle and border, of a recent processor."""
    return make_s1_grd_safe(tmp_path_factory.mktemp("clean"), CLEAN)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> S1GrdTruth:
    """A product with speckle and border noise, of an old processor, as a zip."""
    return make_s1_grd_safe(tmp_path_factory.mktemp("old"), OLD, zipped=True)


def _card(**changes: object) -> Card:
    return replace(load_card("s1_safe_grd"), **changes)  # type: ignore[arg-type]


def _product(truth: S1GrdTruth, **changes: object) -> Product:
    (found,) = list_products(_card(**changes), truth.path.parent).products
    return found


def _layers(truth: S1GrdTruth, **changes: object) -> Layers:
    found = _product(truth, **changes)
    assert found.source is not None
    return found.source.layers(found.bands)


def _whole(layers: Layers) -> np.ndarray:
    grid = layers.image.grid
    return layers.image.read([0, 1], rows=(0, grid.height), columns=(0, grid.width))


def _radar(truth: S1GrdTruth, polarisation: str = "VV", quantity: Quantity = Quantity.SIGMA0) -> RadarImage:
    safe = radar_safe(truth.path)
    (image,) = (image for image in safe.images if image.polarisation == polarisation)
    return RadarImage(safe, image, quantity, remove_noise=True)


def test_the_formula_with_numbers(tmp_path: Path) -> None:
    truth = make_s1_grd_safe(tmp_path, S1GrdSpec(lines=64, samples=64, looks=None, border_px=0, lut_step=(70, 70)))
    radar = _radar(truth)
    with rasterio.open(radar.path, "r+") as file:
        file.write(np.full((1, 64, 64), 100, dtype=np.uint16))
    for name, tag, value in (
        (radar.image.calibration, "sigmaNought", "600"),
        (radar.image.noise, "noiseRangeLut", "1e3"),
    ):
        path = truth.path / str(name)
        text = path.read_text()
        first, rest = text.split(f"<{tag} ", 1)
        count = int(rest.split('"')[1])
        path.write_text(
            first
            + "".join(
                f'<{tag} count="{count}">{" ".join([value] * count)}</{tag}>' + part.split(f"</{tag}>", 1)[1]
                for part in rest.split(f"<{tag} ")
            )
        )
        relisted(truth.path, path)
    path = truth.path / str(radar.image.noise)
    text = path.read_text()
    path.write_text(text[: text.index("<noiseAzimuthVectorList")] + '<noiseAzimuthVectorList count="0"/></noise>')
    relisted(truth.path, path)
    power = radar.power((0, 64), (0, 64))
    np.testing.assert_allclose(power, (100**2 - 1000) / 600**2, rtol=1e-6)  # 0.025


@pytest.mark.parametrize("polarisation", ["VV", "VH"])
def test_sigma0_of_a_known_scene_within_quantization(clean: S1GrdTruth, polarisation: str) -> None:
    power = _radar(clean, polarisation).power((0, 330), (0, 420))
    dn = clean.dn[polarisation].astype(np.float64)
    bound = (dn + 0.25) / clean.calibration(polarisation) ** 2  # half a DN: (2 DN 0.5 + 0.25) / A^2
    assert (np.abs(power - clean.sigma0[polarisation]) <= bound * 1.001 + 1e-6 * power).all()
    biased = dn**2 / clean.calibration(polarisation) ** 2
    assert np.mean(biased - clean.sigma0[polarisation]) > 0.9e-3  # what leaving the noise in would cost


def test_mean_of_speckled_power_is_unbiased_and_negatives_are_kept(old: S1GrdTruth) -> None:
    power = _radar(old, "VH").power((0, 330), (0, 420))
    good = np.isfinite(power)
    assert (power[good] < 0).any()
    assert np.mean(power[good]) == pytest.approx(np.mean(old.sigma0["VH"][good]), rel=0.02)


def test_quantities_differ_by_the_angle_on_the_ellipsoid(clean: S1GrdTruth) -> None:
    window = (100, 140), (50, 300)
    sigma0, beta0, gamma0 = (
        _radar(clean, quantity=quantity).power(*window)
        for quantity in (Quantity.SIGMA0, Quantity.BETA0, Quantity.GAMMA0)
    )
    lines, samples = np.meshgrid(np.arange(*window[0]), np.arange(*window[1]), indexing="ij")
    theta = np.radians(clean.geometry.incidence(lines, samples))
    np.testing.assert_allclose(sigma0, beta0 * np.sin(theta), rtol=1e-4)
    np.testing.assert_allclose(gamma0, sigma0 / np.cos(theta), rtol=1e-4)


def test_the_map_holds_the_scene_where_the_orbit_saw_it(clean: S1GrdTruth) -> None:
    layers = _layers(clean, quantity=Quantity.SIGMA0)
    assert isinstance(layers.image, GrdImage)
    grid, values = layers.image.grid, _whole(layers)
    rows, columns = np.arange(grid.height) + 0.5, np.arange(grid.width) + 0.5
    places = layers.image.geolocation.image_positions(
        grid, rows, columns
    )  # proved against the orbit in the geolocation tests
    inner = (places[0] > 0) & (places[0] < 329) & (places[1] > 0) & (places[1] < 419)
    for band, polarisation in enumerate(("VV", "VH")):
        expected = map_coordinates(clean.sigma0[polarisation].astype(np.float64), places, order=1)
        tolerance = 1.5 * np.sqrt(expected[inner]) / 590 + 1e-5  # half a DN
        assert (np.abs(values[band][inner] - expected[inner]) < tolerance).all()
    assert np.isnan(values[:, (places[0] < -0.5) | (places[1] > 419.5)]).all()
    angle = layers.fields["incidence_deg"].read(rows=(0, grid.height), columns=(0, grid.width))
    np.testing.assert_allclose(angle[inner], clean.geometry.incidence(*places)[inner], atol=0.002)
    assert not layers.flags["border_noise"].read(rows=(0, grid.height), columns=(0, grid.width)).any()


@pytest.mark.parametrize("gsd_m", [10.0, 20.0, 50.0])
def test_any_window_holds_the_same_bits(old: S1GrdTruth, gsd_m: float, rng: np.random.Generator) -> None:
    layers = pickle.loads(pickle.dumps(_layers(old, gsd_m=gsd_m)))
    grid, whole = layers.image.grid, _whole(layers)
    everything = {"rows": (0, grid.height), "columns": (0, grid.width)}
    noise, angle = layers.flags["border_noise"].read(**everything), layers.fields["incidence_deg"].read(**everything)
    assert np.isfinite(whole).mean() > 0.4
    for _ in range(12):
        top, bottom = sorted(int(value) for value in rng.choice(grid.height + 1, 2, replace=False))
        left, right = sorted(int(value) for value in rng.choice(grid.width + 1, 2, replace=False))
        window, part = {"rows": (top, bottom), "columns": (left, right)}, (slice(top, bottom), slice(left, right))
        assert np.array_equal(layers.image.read([1], **window)[0], whole[1][part], equal_nan=True)
        assert np.array_equal(layers.flags["border_noise"].read(**window), noise[part])
        assert np.array_equal(layers.fields["incidence_deg"].read(**window), angle[part], equal_nan=True)


def test_coarser_pixels_are_means_of_power(clean: S1GrdTruth) -> None:
    fine, coarse = _layers(clean, quantity=Quantity.SIGMA0), _layers(clean, quantity=Quantity.SIGMA0, gsd_m=40.0)
    small, large = _whole(fine)[0], _whole(coarse)[0]
    a, b = fine.image.grid.affine, coarse.image.grid.affine
    row, column = round((a[5] - b[5]) / -10) % 4, round((b[2] - a[2]) / 10) % 4
    top, left = round((b[5] - a[5] + 10 * row) / 40), round((a[2] + 10 * column - b[2]) / 40)
    cut = small[row:, column:]
    cut = cut[: len(cut) // 4 * 4, : cut.shape[1] // 4 * 4]
    means = cut.reshape(len(cut) // 4, 4, -1, 4).mean(axis=(1, 3))
    other = large[top : top + len(means), left : left + means.shape[1]]
    both = np.isfinite(means) & np.isfinite(other[: len(means), : means.shape[1]])
    assert both.sum() > 3000
    np.testing.assert_allclose(other[both], means[both], rtol=2e-5)


def test_folder_and_zip_give_the_same_bits_ids_and_checksums(tmp_path: Path) -> None:
    folder = make_s1_grd_safe(tmp_path / "folder", OLD)
    zipped = make_s1_grd_safe(tmp_path / "zip", OLD, zipped=True)
    first, second = _product(folder), _product(zipped)
    assert first.product_id == second.product_id
    assert first.checksum() == second.checksum()
    assert first.nbytes == second.nbytes > 2 * 2 * 330 * 420
    assert np.array_equal(_whole(_layers(folder)), _whole(_layers(zipped)), equal_nan=True)
    cube = second.open()
    assert cube.attrs["orbit"] == "ascending"
    assert cube.attrs["processing_baseline"] == "002.71"
    assert (cube.attrs["platform"], cube.attrs["mode"]) == ("S1A", "IW")
    middle = folder.geometry.incidence(164.5, 209.5)
    assert cube.attrs["incidence_deg"] == pytest.approx(float(middle), abs=0.002)


@pytest.mark.parametrize("spec", [OLD, replace(OLD, noise="zero"), replace(OLD, ipf="003.31", noise="range_azimuth")])
def test_border_noise_is_masked_and_little_else(tmp_path: Path, spec: S1GrdSpec) -> None:
    truth = make_s1_grd_safe(tmp_path, spec)
    radar = replace(_radar(truth), remove_noise=spec.noise != "zero")
    lines, samples = np.arange(330)[:, None], np.arange(420)[None, :]
    mask = radar.border.at(lines, samples)
    assert mask[truth.border].all()
    far = (lines > 36) & (lines < 293) & (samples > 36) & (samples < 383)
    assert not (mask & far).any()
    assert not np.isfinite(radar.power((0, 330), (0, 420))[truth.border]).any()
    flagged = _layers(truth, radar=Radar(geocoding="gcp", remove_noise=radar.remove_noise)).flags["border_noise"]
    grid = _layers(truth, radar=Radar(geocoding="gcp", remove_noise=radar.remove_noise)).image.grid
    share = flagged.read(rows=(0, grid.height), columns=(0, grid.width)).sum() / mask.sum()
    assert share == pytest.approx(1.0, abs=0.03)  # as many pixels of 10 m on the map as in the image


def test_water_at_the_noise_is_no_border(tmp_path: Path, rng: np.random.Generator) -> None:
    noise = 500.0
    power = noise * rng.gamma(4.4, 1 / 4.4, (600, 700))  # nothing but thermal noise
    power[:, :40] = 9.0
    path = tmp_path / "dn.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=600,
        width=700,
        count=1,
        dtype="uint16",
        photometric="MINISBLACK",
        gcps=[rasterio.control.GroundControlPoint(0, 0, 8, 47)],
        crs="EPSG:4326",
    ) as file:
        file.write(np.rint(np.sqrt(power)).astype(np.uint16), 1)
    border = measure_border(
        path,
        lines=600,
        samples=700,
        floor=lambda line, columns: np.full(columns[1] - columns[0], noise, dtype=np.float32),
    )
    assert (border.left >= 40).all()
    assert (border.left <= 48).all()
    assert np.mean(border.right < 700) < 0.06
    assert np.mean(border.top[64:] > 0) < 0.06


def test_unknown_noise_is_refused_and_may_be_left_in(tmp_path: Path) -> None:
    truth = make_s1_grd_safe(tmp_path, replace(CLEAN, ipf="002.36", noise="zero"))
    with pytest.raises(UserError, match=r"expected thermal noise of VV .*processor 002\.36"):
        _layers(truth)
    kept = _whole(_layers(truth, radar=Radar(geocoding="gcp", remove_noise=False)))
    assert np.isfinite(kept).any()


def test_noise_that_the_processor_removed_is_not_removed_again(tmp_path: Path) -> None:
    truth = make_s1_grd_safe(tmp_path, CLEAN)
    before = _radar(truth).power((0, 330), (0, 420))
    for path in (truth.path / "annotation").glob("*.xml"):
        text = path.read_text()
        assert "<thermalNoiseCorrectionPerformed>false<" in text
        path.write_text(
            text.replace("<thermalNoiseCorrectionPerformed>false<", "<thermalNoiseCorrectionPerformed>true<")
        )
        relisted(truth.path, path)
    after = _radar(truth).power((0, 330), (0, 420))
    plain = truth.dn["VV"].astype(np.float64) ** 2 / truth.calibration("VV") ** 2
    np.testing.assert_allclose(after, plain, rtol=1e-5)
    assert (after >= before).all()  # noise is 0 at the last sample, as in real products
    assert np.mean(after - before) > 0.9e-3


def test_noise_in_other_units_is_refused(tmp_path: Path) -> None:
    truth = make_s1_grd_safe(tmp_path, OLD)
    radar = _radar(truth)
    path = truth.path / str(radar.image.noise)
    lines = []
    for line in path.read_text().splitlines():
        if "<noiseLut" in line:
            head, rest = line.split(">", 1)
            values, tail = rest.split("<", 1)
            line = f"{head}>{' '.join(f'{float(value) / 1e9:e}' for value in values.split())}<{tail}"
        lines.append(line)
    path.write_text("\n".join(lines))
    relisted(truth.path, path)
    with pytest.raises(UserError, match=r"units of DN\^2"):
        radar.check()


def test_pixels_coarser_than_the_card_are_refused(tmp_path: Path) -> None:
    truth = make_s1_grd_safe(tmp_path, replace(CLEAN, mode="EW", lines=128, samples=160))
    with pytest.raises(UserError, match="expected pixels of 10 m or finer"):
        _layers(truth)
    layers = _layers(truth, gsd_m=40.0)
    assert measure_gsd(layers.image.grid) == 40.0
    assert np.isfinite(_whole(layers)).any()


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("longitude", "1.500000000000000e+02", "geolocation grid that fits"),
        ("latitude", "9.900000000000000e+03", "on the globe"),
        ("latitude", "inf", "finite numbers"),
        ("pixel", "7", "a full geolocation grid"),
    ],
)
def test_a_damaged_geolocation_grid_is_refused(tmp_path: Path, tag: str, value: str, words: str) -> None:
    truth = make_s1_grd_safe(tmp_path, OLD)
    for path in (truth.path / "annotation").glob("*.xml"):
        head, tail = path.read_text().split("<geolocationGridPoint>", 1)
        before, rest = tail.split(f"<{tag}>", 1)
        path.write_text(f"{head}<geolocationGridPoint>{before}<{tag}>{value}{rest[rest.index('<') :]}")
        relisted(truth.path, path)
    with pytest.raises(UserError, match=words):
        _layers(truth)


@pytest.mark.parametrize("mode", ["EW", "S3"])
def test_other_modes_say_so(tmp_path: Path, mode: str) -> None:
    truth = make_s1_grd_safe(tmp_path, replace(CLEAN, mode=mode, lines=128, samples=160))
    assert _product(truth, gsd_m=40.0).acquisition.mode == mode


@pytest.mark.parametrize(
    ("spec", "gsd_m", "epsg"),
    [
        (replace(CLEAN, mode="EW", polarisations=("HH", "HV"), lines=200, samples=240), 40.0, None),
        (replace(CLEAN, mode="S3", polarisations=("HH", "HV"), lines=200, samples=240, ascending=True), 10.0, None),
        (replace(CLEAN, lines=200, samples=240, centre=(-17.0, 180.0)), 10.0, {"EPSG:32701", "EPSG:32760"}),
        (replace(CLEAN, lines=200, samples=240, centre=(0.0, 12.0), ascending=True), 10.0, None),
    ],
    ids=["EW", "stripmap", "antimeridian", "equator and zone limit"],
)
def test_modes_and_places_recover_the_scene_where_it_lies(
    tmp_path: Path, spec: S1GrdSpec, gsd_m: float, epsg: set[str] | None
) -> None:
    """Map coordinates to latitude and longitude to the truth's own line and sample: no geolocation grid of the reader in between."""
    truth = make_s1_grd_safe(tmp_path, spec)
    layers = _layers(truth, quantity=Quantity.SIGMA0, gsd_m=gsd_m, bands=spec.polarisations)
    grid, values = layers.image.grid, _whole(layers)
    assert epsg is None or read_crs(grid) in epsg
    assert grid.height * grid.width < 3 * spec.lines * spec.samples
    lines, samples = np.meshgrid(np.arange(0.0, spec.lines, 8), np.arange(0.0, spec.samples, 8), indexing="ij")
    latitude, longitude = truth.locate(lines, samples)
    x, y = Transformer.from_crs(4326, read_crs(grid), always_xy=True).transform(longitude, latitude)
    across, along = (x - grid.affine[2]) / gsd_m - 0.5, (y - grid.affine[5]) / -gsd_m - 0.5
    inner = (lines > 8) & (samples > 8) & (lines < spec.lines - 9) & (samples < spec.samples - 9)
    for band, polarisation in enumerate(spec.polarisations):
        found = map_coordinates(values[band].astype(np.float64), [along[inner], across[inner]], order=1, cval=np.nan)
        expected = map_coordinates(
            truth.sigma0[polarisation].astype(np.float64), [lines[inner], samples[inner]], order=1
        )
        assert np.isfinite(found).all()
        assert np.median(np.abs(found / expected - 1)) < 0.02
        assert np.corrcoef(found, expected)[0, 1] > 0.98


def test_a_truncated_or_exchanged_measurement_is_refused(tmp_path: Path) -> None:
    truth = make_s1_grd_safe(tmp_path, OLD)
    radar = _radar(truth)
    data = radar.path.read_bytes()
    radar.path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="damaged"):
        radar.power((0, 330), (0, 420))
    with pytest.raises(UserError, match=r"-vv-.*\.tiff to have the \d+ bytes of its manifest"):
        _product(truth).checksum()
    other = make_s1_grd_safe(tmp_path / "other", replace(OLD, lines=128))
    shutil.copy(_radar(other).path, radar.path)
    with pytest.raises(UserError, match="expected 330 x 420 amplitudes"):
        radar.check()


def test_real_products_without_pixels_are_listed_once_and_refused_when_opened(real_data: Path) -> None:
    found, dropped = list_grd_products(_card(files="*.zip"), real_data / "s1_grd_annotations")
    assert [product.product_id[-4:] for product in found] == ["6D00", "CEAB", "3768", "8255"]
    ((name, reason),) = dropped
    assert name.endswith("FEC3")
    assert "processed again as" in reason
    assert "002.70" in reason
    assert found[-1].acquisition.datetime == "2021-01-19T03:16:53Z"
    assert (found[-1].acquisition.orbit, found[-1].acquisition.relative_orbit) == ("descending", 79)
    assert found[-1].acquisition.incidence_deg == pytest.approx(39.0, abs=0.5)
    for product in found:
        for call in (product.open, product.checksum):
            with pytest.raises(UserError, match=r"expected the file .*tiff in .*, found none"):
                call()


def test_what_is_not_wanted_is_left_out_and_what_is_damaged_stays(tmp_path: Path) -> None:
    make_s1_grd_safe(tmp_path, OLD)
    make_s1_grd_safe(tmp_path, replace(OLD, polarisations=("HH", "HV"), datetime="2016-06-01T05:00:00Z"))
    slc = make_s1_grd_safe(tmp_path, replace(OLD, datetime="2016-07-01T05:00:00Z")).path / "manifest.safe"
    slc.write_text(slc.read_text().replace("productType>GRD<", "productType>SLC<"))
    damaged = tmp_path / "S1A_IW_GRDH_1SDV_20170101T000000_20170101T000001_000001_000001_ABCD.zip"
    damaged.write_bytes(b"PK\x03\x04 and no more")
    copy = next(tmp_path.glob("*20160501*.SAFE"))
    with zipfile.ZipFile(copy.with_suffix(".zip"), "w") as archive:
        for path in sorted(copy.rglob("*")):
            archive.write(path, path.relative_to(tmp_path))
    found, dropped = list_grd_products(_card(), tmp_path)
    assert sorted(product.source.name for product in found if product.source) == [copy.stem, damaged.stem]
    assert sorted(reason for _, reason in dropped) == [
        "a product of type SLC, not GRD",
        f"a second copy, in {copy.stem}.zip",
        "has HH, HV, and card s1_safe_grd wants VV, VH",
    ]
    (broken,) = (product for product in found if product.source and product.source.name == damaged.stem)
    for call in (broken.open, broken.checksum):
        with pytest.raises(UserError, match="expected a zip file"):
            call()


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"scale": 2.0}, "scale"), ({"nodata": 0.0}, "nodata"), ({"quantity": Quantity.SIGMA0_DB}, "sigma0_db")],
)
def test_a_card_that_states_what_products_state_is_refused(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        list_grd_products(_card(**changes), tmp_path)
