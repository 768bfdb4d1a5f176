"""Wave mode: no independent reader was at hand, so positions, tables and noise are compared with closed forms of generated products."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyproj
import pytest
import rasterio

from eo_ssl.cards import Card, Vignettes
from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.errors import UserError
from eo_ssl.scene.chip import Chip, UnreadableChip
from eo_ssl.scene.product import Product
from eo_ssl.scene.readers import list_products
from eo_ssl.sensors import Quantity
from safe_products import relisted
from worlds.safe import S1WvSpec, S1WvTruth, Vignette, make_s1_wv_safe

SIZE = 40  # 2 km of the 2.6 km of a generated vignette
SPEC = S1WvSpec(vignettes=2, extent_m=2600.0, speckle=False)


def _card(
    *,
    crop_px: int = SIZE,
    remove_noise: bool = True,
    bands: tuple[str, ...] = ("VV",),
    quantity: Quantity = Quantity.SIGMA0,
) -> Card:
    return Card(
        name="wave",
        title="",
        sensor="sentinel1_wv",
        reader="sentinel1_wv_safe",
        bands=bands,
        quantity=quantity,
        gsd_m=50.0,
        licence="",
        attribution="",
        source="",
        files="*",
        vignettes=Vignettes(crop_px=crop_px, remove_noise=remove_noise),
    )


def _product(folder: Path, card: Card | None = None) -> Product:
    (found,) = list_products(card or _card(), folder).products
    return found


def _chips(folder: Path, card: Card | None = None) -> list[Chip]:
    found = list(_product(folder, card).open_chips())
    for chip in found:
        assert isinstance(chip, Chip), chip.reason
    return found


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> S1WvTruth:
    """Without speckle."""
    return make_s1_wv_safe(tmp_path_factory.mktemp("wave"), SPEC)


def _ground(vignette: Vignette) -> tuple[np.ndarray, np.ndarray]:
    """Metres on the ground of the outer edges of lines and samples, from the positions that the generator's own geometry gives."""
    geometry = vignette.geometry
    geod = pyproj.Geod(ellps="WGS84")
    lines, samples = np.arange(-0.5, geometry.lines), np.arange(-0.5, geometry.samples)
    places = [geometry.locate(lines, (geometry.samples - 1) / 2), geometry.locate((geometry.lines - 1) / 2, samples)]
    along, across = (geod.inv(x[:-1], y[:-1], x[1:], y[1:])[2] for y, x in places)
    return np.concatenate([[0], np.cumsum(along)]), np.concatenate([[0], np.cumsum(across)])


def test_sigma0_is_that_of_the_truth_where_it_lies(still: S1WvTruth) -> None:
    """The truth's closed form at places found through the generator's range-Doppler geometry, 16 x 16 to a pixel."""
    for chip, vignette in zip(_chips(still.path.parent), still.vignettes, strict=True):
        along, across = _ground(vignette)
        assert (chip.height_px, chip.width_px) == (int(along[-1] / 50), int(across[-1] / 50))
        assert (chip.row_off, chip.col_off) == ((chip.height_px - SIZE) // 2, (chip.width_px - SIZE) // 2)
        fine = (np.arange(16 * SIZE) + 0.5) / 16
        lines = np.interp(50 * (chip.row_off + fine), along, np.arange(len(along)) - 0.5)
        samples = np.interp(50 * (chip.col_off + fine), across, np.arange(len(across)) - 0.5)
        expected = vignette.sigma0(lines, samples).reshape(SIZE, 16, SIZE, 16).mean(axis=(1, 3))
        assert chip.image.shape == (1, SIZE, SIZE)
        assert chip.image.dtype == np.float32
        assert chip.valid.all()
        np.testing.assert_allclose(chip.image[0], expected, rtol=0.01)
        assert (chip.image[0] / expected).mean() == pytest.approx(1, abs=5e-4)
        assert np.ptp(expected) > 0.2 * expected.mean()  # the waves are there to be misplaced


def test_beta0_and_gamma0_follow_from_the_incidence_angle(still: S1WvTruth) -> None:
    """sigma0 = beta0 sin(angle) = gamma0 cos(angle): the tables of three quantities leave the same field."""
    sigma, beta, gamma = (
        _chips(still.path.parent, _card(quantity=quantity))
        for quantity in (Quantity.SIGMA0, Quantity.BETA0, Quantity.GAMMA0)
    )
    for one, two, three in zip(sigma, beta, gamma, strict=True):
        angle = np.deg2rad(one.incidence_deg)
        middle = (0, SIZE // 2, SIZE // 2)
        assert one.image[middle] / two.image[middle] == pytest.approx(np.sin(angle), rel=1e-3)
        assert one.image[middle] / three.image[middle] == pytest.approx(np.cos(angle), rel=1e-3)


def test_corners_lie_where_the_cut_ends(still: S1WvTruth) -> None:
    geod = pyproj.Geod(ellps="WGS84")
    for chip, vignette in zip(_chips(still.path.parent), still.vignettes, strict=True):
        along, across = _ground(vignette)
        rows, columns = 50.0 * chip.row_off + np.array([0, 50 * SIZE]), 50.0 * chip.col_off + np.array([0, 50 * SIZE])
        lines = np.interp(rows, along, np.arange(len(along)) - 0.5)
        samples = np.interp(columns, across, np.arange(len(across)) - 0.5)
        corners = [(0, 0), (0, 1), (1, 1), (1, 0)]
        for (longitude, latitude), (i, j) in zip(chip.footprint, corners, strict=True):
            truth = vignette.geometry.locate(lines[i], samples[j])
            assert geod.inv(longitude, latitude, float(truth[1]), float(truth[0]))[2] < 2.0
        for (a, b), (c, d) in zip(chip.footprint, chip.footprint[1:] + chip.footprint[:1], strict=True):
            assert geod.inv(a, b, c, d)[2] == pytest.approx(50 * SIZE, rel=2e-3)


@pytest.mark.parametrize(("ascending", "down", "right"), [(True, 1, 1), (False, -1, -1)])
def test_rows_follow_the_flight_and_columns_lead_away(tmp_path: Path, ascending: bool, down: int, right: int) -> None:
    """The radar looks to the right: flying north the far columns are in the east, flying south in the west."""
    make_s1_wv_safe(tmp_path, replace(SPEC, vignettes=1, extent_m=1000.0, ascending=ascending))
    (chip,) = _chips(tmp_path, _card(crop_px=16))
    first, far, _, last = chip.footprint
    assert np.sign(last[1] - first[1]) == down
    assert np.sign(far[0] - first[0]) == right


def test_what_is_known_of_each_vignette(still: S1WvTruth) -> None:
    product = _product(still.path.parent)
    assert product.kind == "chips"
    assert product.product_id == f"wave/{still.name.removesuffix('.SAFE')}"
    assert product.shape == (1, SIZE, SIZE)
    assert (product.acquisition.mode, product.acquisition.platform, product.acquisition.orbit) == (
        "WV",
        "S1A",
        "descending",
    )
    assert product.nbytes > 4 * sum(v.geometry.lines * v.geometry.samples for v in still.vignettes)
    assert pickle.loads(pickle.dumps(product)) == product
    chips = list(product.open_chips())
    assert [chip.mode for chip in chips] == ["WV1", "WV2"]
    for chip, vignette in zip(chips, still.vignettes, strict=True):
        assert chip.name == vignette.image.stem
        assert chip.incidence_deg == pytest.approx(vignette.incidence_deg, abs=1e-3)
        assert chip.datetime == vignette.datetime.replace(microsecond=0).isoformat().replace("+00:00", "Z")
        measurement = still.path / "measurement" / f"{vignette.image.stem}.tiff"
        assert chip.sha256 == hashlib.sha256(measurement.read_bytes()).hexdigest()
        assert (chip.label, chip.split) == (-1, "")
    with pytest.raises(UserError, match="call open_chips"):
        assert product.source is not None
        product.source.layers(("VV",))


def test_speckle_averages_to_the_truth_without_the_noise(tmp_path: Path) -> None:
    """Circular Gaussian samples: the mean is sigma0, and the variance over it falls by the looks of a pixel."""
    truth = make_s1_wv_safe(tmp_path, replace(SPEC, speckle=True))
    quiet, loud = _chips(tmp_path), _chips(tmp_path, _card(remove_noise=False))
    for chip, noisy, vignette in zip(quiet, loud, truth.vignettes, strict=True):
        along, across = _ground(vignette)
        looks = 50.0**2 / (along[-1] / len(along)) / (across[-1] / len(across))
        middle = [
            np.interp(50 * (start + np.arange(SIZE) + 0.5), edges, np.arange(len(edges)) - 0.5)
            for start, edges in ((chip.row_off, along), (chip.col_off, across))
        ]
        ratio = chip.image[0].astype(np.float64) / vignette.sigma0(*middle)
        assert ratio.mean() == pytest.approx(1, abs=0.015)
        table = vignette.tables.calibration_at(middle[0], middle[1])
        extra = (noisy.image[0] - chip.image[0]) / (vignette.tables.noise_at(middle[0], middle[1]) / table**2)
        assert np.median(extra) == pytest.approx(1, abs=0.02)
        signal = vignette.power(*middle) / (vignette.power(*middle) - vignette.tables.noise_at(*middle))
        assert (1 / ratio.var()) * np.mean(signal**2) == pytest.approx(looks, rel=0.15)


def test_a_zip_is_the_same_product(still: S1WvTruth, tmp_path: Path) -> None:
    make_s1_wv_safe(tmp_path, SPEC, zipped=True)
    packed, folder = _product(tmp_path), _product(still.path.parent)
    assert packed.product_id == folder.product_id
    assert packed.checksum() == folder.checksum()
    for one, two in zip(packed.open_chips(), folder.open_chips(), strict=True):
        np.testing.assert_array_equal(one.image, two.image)
        assert (one.name, one.sha256, one.footprint) == (two.name, two.sha256, two.footprint)


def test_a_vignette_smaller_than_the_cut_is_filled_with_invalid_pixels(still: S1WvTruth) -> None:
    small, large = _chips(still.path.parent), _chips(still.path.parent, _card(crop_px=64))
    for one, two in zip(small, large, strict=True):
        assert two.row_off < 0
        top, left = one.row_off - two.row_off, one.col_off - two.col_off
        np.testing.assert_array_equal(two.image[:, top : top + SIZE, left : left + SIZE], one.image)
        assert two.valid.sum() == two.height_px * two.width_px
        assert np.isnan(two.image[0][~two.valid]).all()


def test_fill_at_the_ends_of_lines_is_no_power(still: S1WvTruth, tmp_path: Path) -> None:
    folder = tmp_path / still.path.name
    shutil.copytree(still.path, folder)
    path = next((folder / "measurement").glob("*-001.tiff"))
    with rasterio.open(path, "r+") as file:
        values = file.read()
        lines, samples = values.shape[1:]
        values[:, :, : samples // 3] = 0
        values[:, lines // 2, samples // 2] = 0  # a measurement among others
        file.write(values)
    whole = _product(still.path.parent).checksum()
    changed = _product(tmp_path)
    assert changed.checksum() != whole
    refused, other = changed.open_chips()
    assert (type(refused), type(other)) == (UnreadableChip, Chip)
    relisted(folder, path)
    chip = _chips(tmp_path)[0]
    third = chip.width_px / 3 - chip.col_off
    invalid = ~chip.valid.any(axis=0)
    assert invalid[: int(third) - 1].all()
    assert not invalid[int(third) + 2 :].any()
    assert chip.valid[:, int(third) + 2 :].all()


def test_products_that_do_not_fit_the_card(tmp_path: Path) -> None:
    kept = make_s1_wv_safe(tmp_path, replace(SPEC, vignettes=1, extent_m=1000.0))
    other = make_s1_wv_safe(tmp_path, replace(SPEC, vignettes=1, extent_m=1000.0, polarisation="HH"))
    (tmp_path / "S1A_WV_broken.zip").write_bytes(b"no zip")
    found = list_products(_card(), tmp_path)
    assert [product.product_id for product in found.products] == [
        f"wave/{kept.name.removesuffix('.SAFE')}",
        "wave/S1A_WV_broken",
    ]
    ((name, reason),) = found.dropped
    assert name == f"wave/{other.name.removesuffix('.SAFE')}"
    assert "expected VV" in reason
    assert "got HH" in reason
    with pytest.raises(UserError, match="expected a zip file"):
        found.products[1].checksum()
    hh = list_products(_card(bands=("HH",)), tmp_path).products[0]
    assert [chip.mode for chip in hh.open_chips()] == ["WV1"]
    with pytest.raises(UserError, match="one polarisation"):
        list_products(_card(bands=("VV", "HH")), tmp_path)


def test_a_product_that_does_not_state_its_noise_is_refused(tmp_path: Path) -> None:
    make_s1_wv_safe(tmp_path, replace(SPEC, vignettes=1, extent_m=1000.0, noise="none"))
    (refused,) = _product(tmp_path, _card(crop_px=16)).open_chips()
    assert isinstance(refused, UnreadableChip)
    assert "expected thermal noise" in refused.reason
    assert len(_chips(tmp_path, _card(crop_px=16, remove_noise=False))) == 1


def test_noise_of_early_processors_in_other_units_is_refused(tmp_path: Path) -> None:
    """Processors 2.90 and 2.91 state the noise of wave mode 37 to 39 dB too high."""
    truth = make_s1_wv_safe(tmp_path, replace(SPEC, vignettes=1, extent_m=1000.0))
    (path,) = truth.path.glob("annotation/calibration/noise-*.xml")
    root = ElementTree.parse(path)
    for table in root.iter("noiseRangeLut"):
        table.text = " ".join(f"{float(value) * 10**3.813:e}" for value in str(table.text).split())
    root.write(path)
    relisted(truth.path, path)
    (refused,) = _product(tmp_path, _card(crop_px=16)).open_chips()
    assert isinstance(refused, UnreadableChip)
    assert "units of DN^2" in refused.reason


@pytest.mark.parametrize("kind", ["cut", "absent", "exchanged", "annotation"])
def test_a_damaged_vignette_is_lost_alone(still: S1WvTruth, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / still.path.name
    shutil.copytree(still.path, folder)
    path = next((folder / "measurement").glob("*-002.tiff"))
    if kind == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "absent":
        path.unlink()
    elif kind == "exchanged":
        shutil.copyfile(next((folder / "measurement").glob("*-001.tiff")), path)
    else:
        path = next((folder / "annotation").glob("*-002.xml"))
        path.write_text(path.read_text().replace("<line>", "<line> ", 1))
    chip, refused = _product(tmp_path).open_chips()
    assert isinstance(chip, Chip)
    np.testing.assert_array_equal(chip.image, _chips(still.path.parent)[0].image)
    assert isinstance(refused, UnreadableChip)
    assert refused.name == still.vignettes[1].image.stem
    assert path.name in refused.reason
    assert ("found none" if kind == "absent" else "of its manifest") in refused.reason
    assert _product(tmp_path).checksum() != _product(still.path.parent).checksum()


def test_a_measurement_of_another_shape_is_told_even_where_the_manifest_lists_it(
    still: S1WvTruth, tmp_path: Path
) -> None:
    folder = tmp_path / still.path.name
    shutil.copytree(still.path, folder)
    first, second = sorted((folder / "measurement").glob("*.tiff"))
    shutil.copyfile(first, second)
    relisted(folder, second)
    _, refused = _product(tmp_path).open_chips()
    assert isinstance(refused, UnreadableChip)
    assert "complex samples" in refused.reason


def test_damage_to_what_vignettes_share_is_damage_to_the_product(still: S1WvTruth, tmp_path: Path) -> None:
    folder = tmp_path / still.path.name
    shutil.copytree(still.path, folder)
    path, manifest = folder / "overlay.kml", folder / "manifest.safe"
    path.write_bytes(b"<kml/>")
    listed = (
        '<dataObject ID="kml" repID="s1MapOverlaySchema"><byteStream mimeType="text/xml" size="6">'
        '<fileLocation locatorType="URL" href="./overlay.kml"/><checksum checksumName="MD5">0</checksum></byteStream></dataObject>'
    )
    manifest.write_text(manifest.read_text().replace("</dataObjectSection>", f"{listed}</dataObjectSection>"))
    relisted(folder, path)
    _product(tmp_path).checksum()
    path.write_bytes(b"<kmz/>")
    with pytest.raises(UserError, match=f"{path.name} to have the checksum"):
        _product(tmp_path).checksum()
    manifest.write_bytes(manifest.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"expected XML in .*manifest.safe"):
        _product(tmp_path).checksum()


@pytest.mark.parametrize("client", ["synchronous", "threads"])
def test_a_corpus_takes_the_other_vignettes_and_says_which_are_lost(
    still: S1WvTruth, tmp_path: Path, client: str
) -> None:
    folder = tmp_path / "data" / still.path.name
    shutil.copytree(still.path, folder)
    path = next((folder / "measurement").glob("*-002.tiff"))
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    name, config = still.vignettes[1].image.stem, IngestConfig(size_px=SIZE)
    report = ingest([_product(folder.parent)], out=tmp_path / "made", config=config, client=client)
    assert (report.tiles, report.counts["damaged"], report.quarantined) == (1, 1, ())
    corpus = Corpus.open(tmp_path / "made")
    (entry,) = corpus.quarantine()
    assert (entry["product_id"], entry["chip"]) == (f"wave/{still.path.stem}", name)
    assert f"{name}.tiff to have the checksum" in entry["reason"]
    assert corpus.verify() == []
    path.write_bytes(good)
    ingest([_product(folder.parent)], out=tmp_path / "made", config=config, client=client)
    assert Corpus.open(tmp_path / "made").quarantine() == []
    direct = ingest([_product(still.path.parent)], out=tmp_path / "direct", config=config, client=client)
    assert direct.tiles == 2
    assert Corpus.open(tmp_path / "made").fingerprint == Corpus.open(tmp_path / "direct").fingerprint


def test_a_product_whose_vignettes_are_all_lost_is_put_aside_with_the_reason(still: S1WvTruth, tmp_path: Path) -> None:
    folder = tmp_path / "data" / still.path.name
    shutil.copytree(still.path, folder)
    for path in (folder / "measurement").glob("*.tiff"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"-001\.tiff to have the \d+ bytes of its manifest"):
        ingest(
            [_product(folder.parent)], out=tmp_path / "made", config=IngestConfig(size_px=SIZE), client="synchronous"
        )


def test_of_two_processings_and_two_copies_one_is_kept(tmp_path: Path) -> None:
    small = replace(SPEC, vignettes=1, extent_m=1000.0)
    older = make_s1_wv_safe(tmp_path, replace(small, ipf="002.36", noise="old"))
    newer = make_s1_wv_safe(tmp_path, small)
    (tmp_path / f"{newer.name.removesuffix('.SAFE')}.zip").write_bytes(b"cut short")
    found = list_products(_card(), tmp_path)
    assert [product.product_id for product in found.products] == [f"wave/{newer.name.removesuffix('.SAFE')}"]
    assert found.products[0].acquisition.processing_baseline == "003.31"
    reasons = dict(found.dropped)
    assert "by processor 003.31 (this one: 002.36)" in reasons[f"wave/{older.name.removesuffix('.SAFE')}"]
    assert reasons[found.products[0].product_id].startswith("a second copy, which cannot be read: ")
    assert len(found.products[0].checksum()) == 64
