"""Calibration and noise tables: numbers read by eye from real annotations, closed forms of the interpolation, and refusals."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest

from eo_ssl.errors import UserError
from eo_ssl.scene.sentinel1.calibration import read_calibration
from eo_ssl.scene.sentinel1.lut import Table, Vector
from eo_ssl.scene.sentinel1.noise import read_noise
from eo_ssl.scene.sentinel1.product_manifest import Safe
from eo_ssl.sensors import Quantity
from safe_products import radar_safe

AGAIN = "S1A_IW_GRDH_1SDV_20150203T043109_20150203T043134_004454_00574F_6D00"
FIRST = "S1A_IW_GRDH_1SDV_20150203T043109_20150203T043134_004454_00574F_FEC3"
CEAB = "S1A_IW_GRDH_1SDV_20150222T170725_20150222T170750_004739_005DD8_CEAB"
C3768 = "S1A_IW_GRDH_1SDV_20150222T170750_20150222T170815_004739_005DD8_3768"
NEW = "S1A_IW_GRDH_1SDV_20210119T031653_20210119T031718_036201_043ED0_8255"

# (vector, line, pixel, sigmaNought, gamma), VV and VH alike; betaNought and dn are 474 throughout. Copied from the files' text.
CALIBRATION = {
    AGAIN: [
        (0, 0, 0, 664.0201, 615.9429),
        (0, 0, 40, 663.7442, 615.5972),
        (13, 8690, 12000, 600.7754, 531.4835),
        (26, 17380, 25520, 558.9340, 465.9068),
        (26, 17380, 25559, 558.7180, 465.5336),
    ],
    FIRST: [
        (0, 0, 0, 664.0222, 615.9455),
        (0, 0, 40, 663.7463, 615.5998),
        (13, 8690, 12000, 600.7759, 531.4842),
        (26, 17379, 25560, 558.8391, 465.7426),
        (26, 17379, 25561, 558.7205, 465.5378),
    ],
    CEAB: [
        (0, 0, 0, 664.0036, 615.9223),
        (0, 0, 40, 663.7284, 615.5774),
        (13, 8676, 12000, 600.8606, 531.6065),
        (26, 17353, 25320, 559.5231, 466.9220),
        (26, 17353, 25356, 559.4369, 466.7737),
    ],
    C3768: [
        (0, 0, 0, 664.5881, 616.6544),
        (0, 0, 40, 664.3119, 616.3084),
        (13, 8676, 12000, 601.2219, 532.1279),
        (26, 17353, 25360, 559.6584, 467.1549),
        (26, 17353, 25367, 559.6393, 467.1219),
    ],
    NEW: [
        (0, 0, 0, 665.7139, 618.0624),
        (0, 0, 40, 665.4355, 617.7144),
        (13, 8764, 12000, 602.7496, 534.3260),
        (26, 17529, 25920, 559.2378, 466.4307),
        (26, 17529, 25930, 559.2140, 466.3897),
    ],
}
# (polarisation, vector, line, pixel, noise along range)
NOISE = {
    AGAIN: [
        ("VV", 0, 0, 0, 1694.175),
        ("VV", 0, 0, 40, 1670.706),
        ("VV", 13, 8684, 11952, 476.6604),
        ("VV", 26, 16711, 11953, 469.8419),
        ("VV", 26, 16711, 25559, 0.0),
        ("VH", 0, 0, 0, 1723.345),
        ("VH", 13, 8684, 11952, 497.6651),
        ("VH", 26, 16711, 11953, 489.7320),
    ],
    NEW: [
        ("VV", 0, 0, 0, 2359.446),
        ("VV", 0, 0, 40, 2325.495),
        ("VV", 13, 8762, 11943, 800.3066),
        ("VV", 26, 16853, 11943, 800.2122),
        ("VV", 26, 16853, 25930, 0.0),
        ("VH", 0, 0, 0, 2764.563),
        ("VH", 13, 8762, 11943, 927.5959),
        ("VH", 26, 16853, 11943, 917.1306),
    ],
}
# polarisation, swath, first and last line, first and last sample, number of values, (line, factor) of the first, middle and last
AZIMUTH = [
    ("VV", "IW1", 0, 16853, 0, 8742, 1702, (0, 1.011965), (8440, 1.048710), (16853, 1.023755)),
    ("VV", "IW2", 0, 16853, 8743, 17561, 1704, (0, 1.014881), (8440, 1.039838), (16853, 1.007163)),
    ("VV", "IW3", 0, 16853, 17562, 25930, 1702, (0, 1.071199), (8410, 1.000482), (16853, 1.102078)),
    ("VH", "IW1", 0, 16853, 0, 8742, 1702, (0, 1.009371), (8440, 1.050464), (16853, 1.019790)),
    ("VH", "IW2", 0, 16853, 8743, 17561, 1704, (0, 1.015460), (8440, 1.036128), (16853, 1.007644)),
    ("VH", "IW3", 0, 16853, 17562, 25930, 1702, (0, 1.069611), (8410, 1.000441), (16853, 1.097238)),
]


def _product(real_data: Path, name: str) -> Safe:
    return radar_safe(real_data / "s1_grd_annotations" / f"{name}.zip")


def _held(table: Table, vector: int, line: float, pixel: float) -> float:
    found = table.vectors[vector]
    assert found.line == line
    return float(found.values[found.pixels.tolist().index(pixel)])


@pytest.mark.parametrize("name", CALIBRATION)
def test_real_calibration_tables_hold_the_numbers_of_the_files(real_data: Path, name: str) -> None:
    safe = _product(real_data, name)
    assert [image.polarisation for image in safe.images] == ["VV", "VH"]
    for image in safe.images:
        tables = safe.calibration(image)
        assert len(tables.sigma0.vectors) == 27
        for vector, line, pixel, sigma0, gamma0 in CALIBRATION[name]:
            assert _held(tables.sigma0, vector, line, pixel) == sigma0
            assert _held(tables.gamma0, vector, line, pixel) == gamma0
            assert _held(tables.beta0, vector, line, pixel) == 474.0
            assert _held(tables.dn, vector, line, pixel) == 474.0
            if line < safe.annotation(image).lines:
                window = (line, line + 1), (pixel, pixel + 1)
                assert tables.table(Quantity.SIGMA0).at(*window)[0, 0] == np.float32(sigma0)


@pytest.mark.parametrize("name", NOISE)
def test_real_noise_tables_hold_the_numbers_of_the_files(real_data: Path, name: str) -> None:
    safe = _product(real_data, name)
    tables = {image.polarisation: safe.noise(image) for image in safe.images}
    for polarisation, vector, line, pixel, value in NOISE[name]:
        noise = tables[polarisation]
        assert noise is not None
        assert len(noise.along_range.vectors) == 27
        assert _held(noise.along_range, vector, line, pixel) == value
        assert len(noise.azimuth) == (3 if name == NEW else 0)


@pytest.mark.parametrize("name", [FIRST, CEAB, C3768])
def test_real_noise_of_zeros_is_absent(real_data: Path, name: str) -> None:
    safe = _product(real_data, name)
    assert all(image.noise is not None and safe.noise(image) is None for image in safe.images)


def test_real_azimuth_blocks(real_data: Path) -> None:
    safe = _product(real_data, NEW)
    found = []
    for image in safe.images:
        noise = safe.noise(image)
        assert noise is not None
        for block in noise.azimuth:
            middle = len(block.lines) // 2
            ends = [(int(block.lines[k]), float(block.values[k])) for k in (0, middle, -1)]
            corners = block.first_line, block.last_line, block.first_sample, block.last_sample
            found.append((image.polarisation, block.swath, *corners, len(block.lines), *ends))
    assert found == AZIMUTH


def test_real_noise_is_range_times_azimuth_of_the_swath(real_data: Path) -> None:
    safe = _product(real_data, NEW)
    noise = safe.noise(safe.images[0])
    assert noise is not None
    assert noise.at((0, 1), (0, 41))[0, [0, 40]] == pytest.approx([2359.446 * 1.011965, 2325.495 * 1.011965], rel=1e-6)
    # line 337 is halfway between the vectors of lines 0 and 674: 2359.446 and 2363.899; the factors of lines 330 and 340 frame its own
    halfway = (2359.446 + 2363.899) / 2
    block = noise.azimuth[0]
    k = block.lines.tolist().index(330)
    factor = block.values[k] * 0.3 + block.values[k + 1] * 0.7
    assert block.lines[k + 1] == 340
    assert noise.at((337, 338), (0, 1))[0, 0] == pytest.approx(halfway * factor, rel=1e-6)
    edge = noise.at((5000, 5001), (8742, 8744))[0] / noise.along_range.at((5000, 5001), (8742, 8744))[0]
    swaths = [np.interp(5000, block.lines, block.values) for block in noise.azimuth[:2]]
    np.testing.assert_allclose(edge, swaths, rtol=1e-6)  # the factor changes from one sample to the next


def test_interpolation_is_linear_between_vectors_of_different_pixels() -> None:
    table = Table(
        (
            Vector(0, np.array([0.0, 10.0]), np.array([1.0, 11.0])),  # 1 + p
            Vector(100, np.array([0.0, 4.0, 10.0]), np.array([101.0, 105.0, 111.0])),  # 101 + p
        )
    )
    lines, pixels = np.arange(0, 101)[:, None], np.arange(0, 11)[None, :]
    np.testing.assert_allclose(table.at((0, 101), (0, 11)), 1 + lines + pixels, rtol=1e-6)
    beyond = table.at((150, 151), (20, 21))
    assert beyond[0, 0] == 111.0  # held


def test_a_table_has_the_same_bits_in_any_window(rng: np.random.Generator) -> None:
    vectors = []
    for line in (0, 37, 90, 130):
        pixels = np.unique(np.concatenate([[0, 199], rng.integers(1, 199, 30)])).astype(float)
        vectors.append(Vector(line, pixels, rng.uniform(400, 700, len(pixels))))
    table = Table(tuple(vectors))
    whole = table.at((0, 131), (0, 200))
    for top, left, height, width in ((0, 0, 1, 1), (36, 5, 3, 190), (89, 17, 42, 33), (130, 199, 1, 1)):
        part = table.at((top, top + height), (left, left + width))
        assert np.array_equal(part, whole[top : top + height, left : left + width])


_OLD = """<noise><noiseVectorList count="2">
<noiseVector><line>0</line><pixel count="2">0 10</pixel><noiseLut count="2">100 200</noiseLut></noiseVector>
<noiseVector><line>20</line><pixel count="3">0 5 10</pixel><noiseLut count="3">300 350 400</noiseLut></noiseVector>
</noiseVectorList></noise>"""
_EMPTY_AZIMUTH = _OLD.replace("noiseVector", "noiseRangeVector").replace("noiseLut", "noiseRangeLut")
_EMPTY_AZIMUTH = _EMPTY_AZIMUTH.replace("</noise>", '<noiseAzimuthVectorList count="0"/></noise>')
_BLOCK = """<noiseAzimuthVectorList count="1"><noiseAzimuthVector><swath>IW1</swath><firstAzimuthLine>10</firstAzimuthLine>
<firstRangeSample>2</firstRangeSample><lastAzimuthLine>12</lastAzimuthLine><lastRangeSample>3</lastRangeSample>
<line count="2">10 12</line><noiseAzimuthLut count="2">1 2</noiseAzimuthLut></noiseAzimuthVector></noiseAzimuthVectorList>"""


@pytest.mark.parametrize("text", [_OLD, _EMPTY_AZIMUTH])
def test_old_list_and_empty_azimuth_list_give_range_noise_alone(text: str) -> None:
    noise = read_noise(fromstring(text), name="noise.xml")
    assert noise is not None
    expected = [[100, 150, 200], [200, 250, 300], [300, 350, 400]]
    assert noise.at((0, 21), (0, 11))[::10, ::5].tolist() == expected


def test_an_azimuth_block_holds_inside_its_corners_only() -> None:
    text = _EMPTY_AZIMUTH.replace('<noiseAzimuthVectorList count="0"/>', _BLOCK)
    noise = read_noise(fromstring(text), name="noise.xml")
    assert noise is not None
    factor = noise.at((9, 14), (1, 5)) / noise.along_range.at((9, 14), (1, 5))
    expected = [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1.5, 1.5, 1], [1, 2, 2, 1], [1, 1, 1, 1]]
    np.testing.assert_allclose(factor, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "<noise/>",
        '<noise><noiseVectorList count="0"/></noise>',
        _OLD.replace("100 200", "0 0").replace("300 350 400", "0 0 0"),
        '<noise><noiseRangeVectorList count="0"/><noiseAzimuthVectorList count="0"/></noise>',
    ],
)
def test_noise_that_is_not_stated_is_absent_and_not_zero(text: str) -> None:
    assert read_noise(fromstring(text), name="noise.xml") is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('count="2">0 10', 'count="3">0 10', "expected 3 values in pixel"),
        ("100 200", "100", "expected 2 values in noiseLut"),
        ("100 200", "100 x", "expected finite numbers in noiseLut"),
        ("100 200", "100 nan", "expected finite numbers in noiseLut"),
        ("100 200", "-1 200", "of 0 or more"),
        (">0 10<", ">10 0<", "expected ascending positions"),
        ("<line>20", "<line>0", "expected ascending lines"),
        ('List count="2"', 'List count="27"', "expected 27 entries"),
        ("<line>20</line>", "", "expected the element line"),
        ("</noise>", _BLOCK + "</noise>", "got a mixture"),
    ],
)
def test_damaged_noise_is_refused(old: str, new: str, words: str) -> None:
    assert old in _OLD
    with pytest.raises(UserError, match=words):
        read_noise(fromstring(_OLD.replace(old, new, 1)), name="noise.xml")


def test_calibration_refuses_zero_and_other_quantities(real_data: Path) -> None:
    safe = _product(real_data, NEW)
    root = safe.container.xml(safe.images[0].calibration)
    tables = read_calibration(root, name="c.xml")
    with pytest.raises(UserError, match="sigma0, beta0 or gamma0"):
        tables.table(Quantity.SIGMA0_DB)
    values = root.find("calibrationVectorList/calibrationVector/sigmaNought")
    assert values is not None
    assert values.text is not None
    values.text = values.text.replace("6.657139e+02", "0.000000e+00")
    with pytest.raises(UserError, match="above 0"):
        read_calibration(root, name="c.xml")


def test_a_table_cut_short_is_refused(real_data: Path) -> None:
    safe = _product(real_data, NEW)
    about, table = safe.annotation(safe.images[0]), safe.calibration(safe.images[0]).sigma0
    table.check_cover(about.lines, about.samples, name="c.xml")
    with pytest.raises(UserError, match="cut short"):
        Table(table.vectors[:20]).check_cover(about.lines, about.samples, name="c.xml")
    narrow = tuple(Vector(vector.line, vector.pixels[:600], vector.values[:600]) for vector in table.vectors)
    with pytest.raises(UserError, match="cut short"):
        Table(narrow).check_cover(about.lines, about.samples, name="c.xml")
