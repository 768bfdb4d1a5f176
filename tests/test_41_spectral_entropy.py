"""Spectral entropy of tiles against closed forms and a histogram of the decoded values, and in corpora old and new."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus, Encoding, IngestConfig, ingest, select_rows
from eo_ssl.corpus.index import hash_rows
from eo_ssl.corpus.spectral_entropy import measure_spectral_entropy
from eo_ssl.corpus.statistics import place_bin_edges
from eo_ssl.corpus.streams import Stream
from eo_ssl.scene import list_products
from eo_ssl.sensors import Quantity
from fake_scenes import FakeProduct, card

OPTICAL = Stream("sentinel2_l2a", Quantity.BOA_REFLECTANCE, ("B02", "B03", "B04"), 10.0, 20)
RADAR = Stream("sentinel1_rtc", Quantity.GAMMA0, ("VV", "VH"), 10.0, 16)
CHIPS = Stream("sar_chip", Quantity.AMPLITUDE, ("SAR",), 0.3, 16)
OLD = Path(__file__).parent / "fixtures" / "version_0_1" / "corpus"


def measure(image: np.ndarray, stream: Stream, encoding: Encoding | None = None) -> float | None:
    """The entropy of ``image`` [C, H, W] in physical values as it is stored."""
    encoding = encoding or Encoding.of(stream.quantity, chips=False)
    stored = np.zeros((len(image) + encoding.extra_channels, *image.shape[1:]), dtype=encoding.dtype)
    encoding.encode(image.astype(np.float32), stored)
    return measure_spectral_entropy(stored, stream, encoding)


def count_slowly(image: np.ndarray, edges: np.ndarray) -> float:
    """By numpy's histogram of what is valid, values beyond the ends moved into the end bins."""
    total = 0.0
    for band in image.astype(np.float64):
        values = np.clip(band[np.isfinite(band)], edges[0], np.nextafter(edges[-1], 0))
        counts = np.histogram(values, edges)[0]
        share = counts[counts > 0] / max(counts.sum(), 1)
        total -= float((share * np.log(share)).sum())
    return total


@pytest.mark.parametrize(("stream", "value"), [(OPTICAL, 0.2), (RADAR, 0.05), (CHIPS, 7.0)])
def test_a_constant_tile_has_none(stream: Stream, value: float) -> None:
    image = np.full((len(stream.bands), stream.size_px, stream.size_px), value)
    assert measure(image, stream) == 0.0
    image[:, 3, 4] *= 3  # one pixel of n in another bin: n ln n - (n - 1) ln (n - 1), over n
    n = stream.size_px**2
    expected = len(image) * (np.log(n) - (n - 1) / n * np.log(n - 1))
    assert measure(image, stream) == pytest.approx(expected, rel=1e-12)


def test_pixels_spread_evenly_over_all_bins_have_their_logarithm_per_band() -> None:
    """200 bins of 0.01 from -0.2 to 1.8, and 160 of 0.5 dB from -50 to 30 dB, as the page says."""
    middles = np.tile(np.arange(-0.195, 1.8, 0.01), 2).reshape(1, 20, 20)
    assert measure(np.repeat(middles, 3, axis=0), OPTICAL) == pytest.approx(3 * np.log(200), rel=1e-12)
    decibel = np.tile(np.arange(-49.75, 30, 0.5), 2).reshape(1, 16, 20)
    assert measure(10 ** (np.repeat(decibel, 2, axis=0) / 10), RADAR) == pytest.approx(2 * np.log(160), rel=1e-12)
    half = np.repeat(middles, 3, axis=0)
    half[1:] = 0.1  # the others add nothing
    assert measure(half, OPTICAL) == pytest.approx(np.log(200), rel=1e-12)


def test_what_is_invalid_does_not_count(rng: np.random.Generator) -> None:
    image = rng.uniform(0, 0.5, (3, 20, 20))
    image[0, :5] = np.nan
    image[2] = np.nan  # a band without a pixel adds nothing
    whole = measure(image[:1, 5:], OPTICAL.__class__(*_parts(OPTICAL, 1)))
    assert whole is not None
    second = measure(image[1:2], OPTICAL.__class__(*_parts(OPTICAL, 1)))
    assert measure(image, OPTICAL) == pytest.approx(whole + second, rel=1e-12)
    assert measure(np.full((3, 20, 20), np.nan), OPTICAL) is None
    power = rng.gamma(4, 0.02, (2, 16, 16))
    power[:, ::2] = np.nan
    assert measure(power, RADAR) == pytest.approx(measure(power[:, 1::2], RADAR), rel=1e-12)
    chip = rng.integers(0, 256, (1, 16, 16)).astype(np.float64)
    encoding = Encoding.of(Quantity.AMPLITUDE, chips=True)
    without = measure(chip[:, :9], CHIPS, encoding)
    chip[:, 9:] = np.nan  # bytes say so in a channel of their own
    assert encoding.extra_channels and measure(chip, CHIPS, encoding) == pytest.approx(without, rel=1e-12)


def _parts(stream: Stream, bands: int) -> tuple:
    return stream.sensor, stream.quantity, stream.bands[:bands], stream.gsd_m, stream.size_px


@pytest.mark.parametrize("stream", [OPTICAL, RADAR, CHIPS])
def test_it_is_that_of_a_histogram_with_values_beyond_the_ends_in_the_end_bins(stream: Stream, rng) -> None:
    shape = (len(stream.bands), stream.size_px, stream.size_px)
    if stream.quantity.is_power:
        image = rng.gamma(2, 0.05, shape)
        image[:, 0], image[:, 1], image[:, 2] = 0.0, -0.001, 5000.0  # noise taken off, a corner reflector
    else:
        image = rng.normal(0.1, 0.2, shape)
        image[:, 0], image[:, 1] = -0.5, 2.5
    stored = np.zeros(shape, Encoding.of(stream.quantity, chips=False).dtype)
    encoding = Encoding.of(stream.quantity, chips=False)
    encoding.encode(image.astype(np.float32), stored)
    decoded = np.empty(shape, np.float32)
    encoding.decode(stored, decoded)
    edges = place_bin_edges(stream.quantity)[::10]
    assert measure_spectral_entropy(stored, stream, encoding) == pytest.approx(count_slowly(decoded, edges), rel=1e-9)


def test_the_index_holds_it_the_fingerprint_counts_it_and_conditions_ask_for_it(tmp_path: Path, rng) -> None:
    image = np.full((3, 16, 48), 0.2, dtype=np.float32)
    image[:, :, 16:32] = rng.uniform(0, 1, (3, 16, 16))
    image[:, :, 32:] = rng.uniform(0.2, 0.25, (3, 16, 16))
    image[:, 3:5, 34] = np.nan
    config = IngestConfig(size_px=16, min_valid=0.5, shares=(1.0, 0.0, 0.0))
    ingest([FakeProduct("fake/0", card(), image)], out=tmp_path / "c", config=config, client="synchronous")
    corpus = Corpus.open(tmp_path / "c")
    (name,) = corpus.streams
    found = corpus.index(name)["spectral_entropy"].to_numpy()
    edges = place_bin_edges(Quantity.BOA_REFLECTANCE)[::10]
    expected = [count_slowly(tile, edges) for tile in corpus.stream(name).read(np.arange(3))]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[0] == 0 and found[1] > 3 * found[2] / 2 > 0
    assert select_rows(corpus, name, [f"spectral_entropy>{found[2]}"]).tolist() == [1]
    table = corpus.index(name)
    other = pa.array(found + np.float32([0, 0, 1]), pa.float32())
    changed = table.set_column(table.column_names.index("spectral_entropy"), "spectral_entropy", other)
    assert (hash_rows(table) != hash_rows(changed)).any(axis=1).tolist() == [False, False, True]


def test_a_corpus_made_before_opens_and_does_not_know_it() -> None:
    corpus = Corpus.open(OLD)
    assert corpus.verify() == []  # its digests are of the columns it was written with
    for name in corpus.streams:
        column = corpus.index(name, columns=["spectral_entropy"])["spectral_entropy"]
        assert column.null_count == len(column) == corpus.count(name)
        assert len(select_rows(corpus, name, ["spectral_entropy>=0"])) == 0


def test_real_scenes_differ_by_what_is_on_them(real_data: Path, tmp_path: Path) -> None:
    """No patch of land is empty, none reaches the most that 12 bands of 200 bins can have."""
    listed = list_products(load_card("s2_100k"), real_data, accept_unknown_offset="drop").products
    config = IngestConfig(size_px=64, min_valid=0.9)
    ingest(list(listed)[:8], out=tmp_path / "c", config=config, client="synchronous")
    corpus = Corpus.open(tmp_path / "c")
    (name,) = corpus.streams
    found = corpus.index(name, columns=["spectral_entropy"])["spectral_entropy"].to_numpy()
    assert 0 < found.min() < found.max() < 12 * np.log(200) and found.max() > 1.5 * found.min()
