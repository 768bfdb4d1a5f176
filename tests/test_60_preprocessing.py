"""The contract: nothing wrong passes, order by name, masks weigh, and JSON keeps every field."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity, convert, translate_bands

BANDS = ("B02", "B03", "B04", "B08", "B8A", "B11")
MEAN = (0.06, 0.08, 0.09, 0.25, 0.27, 0.20)
STD = (0.03, 0.03, 0.05, 0.10, 0.11, 0.09)
TOA = Quantity.TOA_REFLECTANCE


def contract(**changes: object) -> Preprocessing:
    fields = {
        "sensor": "sentinel2_l1c",
        "quantity": TOA,
        "bands": BANDS,
        "convert": (),
        "range": TOA.plausible,
        "clip": None,
        "mean": MEAN,
        "std": STD,
        "size_px": 8,
        "gsd_m": (10.0, 10.0),
        "resize": "to_size",
        "interpolation": "bilinear",
        "antialias": True,
        "missing": "refuse",
    }
    return Preprocessing(**{**fields, **changes})  # type: ignore[arg-type]


def sar(**changes: object) -> Preprocessing:
    fields = {
        "sensor": "sentinel1_rtc",
        "quantity": Quantity.GAMMA0,
        "bands": ("VV", "VH"),
        "convert": ("gamma0->gamma0_db",),
        "range": Quantity.GAMMA0.plausible,
        "mean": (-11.0, -18.0),
        "std": (4.0, 4.5),
    }
    return contract(**{**fields, **changes})


def image(rng: np.random.Generator, size: int = 8, batch: int = 3) -> torch.Tensor:
    mean, std = (np.array(v).reshape(1, -1, 1, 1) for v in (MEAN, STD))
    return torch.from_numpy((mean + 0.3 * std * rng.normal(size=(batch, len(BANDS), size, size))).astype(np.float32))


def call(
    p: Preprocessing,
    x: torch.Tensor,
    bands: tuple[str, ...] = BANDS,
    quantity: object = TOA,
    sensor: str = "sentinel2_l1c",
):
    return p(x, bands=bands, quantity=quantity, sensor=sensor)  # type: ignore[arg-type]


def test_normalises_by_hand(rng: np.random.Generator) -> None:
    x = image(rng)
    out, valid = call(contract(), x)
    expected = (x.numpy() - np.array(MEAN, np.float32).reshape(1, -1, 1, 1)) / np.array(STD, np.float32).reshape(
        1, -1, 1, 1
    )
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert out.dtype == torch.float32 and valid.dtype == torch.bool and valid.all()


@settings(max_examples=40)
@given(
    order=st.permutations(range(len(BANDS))), size=st.sampled_from([6, 8, 13]), holes=st.booleans(), last=st.booleans()
)
def test_any_permutation_gives_the_same_bits(order: list[int], size: int, holes: bool, last: bool) -> None:
    x = image(np.random.default_rng(7), size=size)
    if holes:
        x[:, :, 1:4, 2:5] = torch.nan
        x[1, 3] = torch.nan
    reference, valid = call(contract(), x)
    shuffled = x[:, order]
    if last:  # another memory layout must not change a bit either
        shuffled = shuffled.contiguous(memory_format=torch.channels_last)
    out, known = call(contract(), shuffled, tuple(BANDS[i] for i in order))
    assert torch.equal(out, reference) and torch.equal(known, valid)


def test_names_decide_not_positions(rng: np.random.Generator) -> None:
    # EuroSAT files carry B8A last, foreign names and bands that nobody asked for.
    x = image(rng)
    extra = torch.full((3, 2, 8, 8), 0.4)
    names = ("BLUE", "B3", "red", "b08", "SWIR_1", "B10", "NDVI", "nir08")
    moved = torch.cat([x[:, [0, 1, 2, 3, 5]], extra, x[:, [4]]], dim=1)
    assert torch.equal(call(contract(), moved, names)[0], call(contract(), x)[0])


def test_a_quantity_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        UserError, match=r"expected a quantity out of .*got 'toa_reflectence'; did you mean 'toa_reflectance'"
    ):
        contract(quantity="toa_reflectence")


def test_input_is_left_alone(rng: np.random.Generator) -> None:
    x = image(rng)
    x[0, 0, 0, 0] = torch.nan
    before = x.clone()
    call(contract(clip=(0.0, 0.1)), x)
    assert torch.equal(torch.nan_to_num(x, nan=-9.0), torch.nan_to_num(before, nan=-9.0))


def test_clip_follows_conversion_and_comes_before_normalisation() -> None:
    power = torch.tensor([1e-9, 1e-2, 1.0, 30.0]).repeat(2, 1).reshape(1, 2, 2, 2)
    out, _ = sar(clip=(-30.0, 5.0), resize="native")(
        power, bands=("VV", "VH"), quantity="gamma0", sensor="sentinel1_rtc"
    )
    expected = (np.clip([-50.0, -20.0, 0.0, 10 * np.log10(30.0)], -30, 5) + 11.0) / 4.0
    np.testing.assert_allclose(out[0, 0].flatten().numpy(), expected, rtol=1e-5)


def test_decibel_is_the_sensors_own_formula(rng: np.random.Generator) -> None:
    power = np.abs(rng.gamma(1.0, 0.05, size=(2, 2, 8, 8))).astype(np.float32)
    power[0, 0, 0, 0] = -1e-4  # left by noise removal
    out, _ = sar()(torch.from_numpy(power), bands=("VV", "VH"), quantity=Quantity.GAMMA0, sensor="sentinel1_rtc")
    decibel = convert(power, source=Quantity.GAMMA0, target=Quantity.GAMMA0_DB)
    expected = (decibel - np.array([-11.0, -18.0]).reshape(1, 2, 1, 1)) / np.array([4.0, 4.5]).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-4, atol=1e-4)


KERNELS = [
    ("bilinear", True),
    ("bilinear", False),
    ("bicubic", True),
    ("bicubic", False),
    ("nearest", False),
    ("area", False),
]


@pytest.mark.parametrize(("interpolation", "antialias"), KERNELS)
@pytest.mark.parametrize("size", [5, 8, 16, 23])
def test_masked_resize_of_a_constant_stays_constant(interpolation: str, antialias: bool, size: int) -> None:
    # Nodata must not bleed into its neighbours: 0.3 stays 0.3 wherever the result says it is known.
    x = torch.full((1, len(BANDS), size, size), 0.3)
    x[:, :, : size // 2, : size // 3] = torch.nan
    p = contract(size_px=12, interpolation=interpolation, antialias=antialias, mean=(0.0,) * 6, std=(1.0,) * 6)
    out, valid = call(p, x)
    assert out.shape == (1, 6, 12, 12) and 0 < int(valid.sum()) < valid.numel()
    np.testing.assert_allclose(out[valid].numpy(), 0.3, rtol=2e-5)
    assert (out[~valid] == 0).all()  # the mean, after normalisation


@pytest.mark.parametrize(
    ("interpolation", "antialias"), [("bilinear", True), ("bicubic", False), ("nearest", False), ("area", False)]
)
def test_resize_without_holes_is_torchs_own_and_ignores_batch_mates(
    rng: np.random.Generator, interpolation: str, antialias: bool
) -> None:
    x = image(rng, size=13)
    p = contract(size_px=8, interpolation=interpolation, antialias=antialias, mean=(0.0,) * 6, std=(1.0,) * 6)
    whole, valid = call(p, x)
    mode = {"nearest": "nearest-exact"}.get(interpolation, interpolation)
    aligned = False if mode in ("bilinear", "bicubic") else None
    expected = torch.nn.functional.interpolate(x, size=(8, 8), mode=mode, align_corners=aligned, antialias=antialias)
    assert torch.equal(whole, expected) and valid.all()
    x[0, :, 3:9, 3:9] = torch.nan
    assert torch.equal(call(p, x)[0][1:], whole[1:])


def test_resize_modes(rng: np.random.Generator) -> None:
    x = image(rng, size=13)
    assert call(contract(resize="native"), x)[0].shape[-2:] == (13, 13)
    cropped = call(contract(resize="crop"), x)[0]
    assert torch.equal(cropped, call(contract(resize="native"), x)[0][..., 2:10, 2:10])


@pytest.mark.parametrize(("missing", "expected"), [("fill_mean", 0.0), ("zero", -MEAN[4] / STD[4])])
def test_missing_bands_by_policy(rng: np.random.Generator, missing: str, expected: float) -> None:
    x = image(rng)
    keep = [0, 1, 2, 3, 5]
    out, valid = call(contract(missing=missing), x[:, keep], tuple(BANDS[i] for i in keep))
    np.testing.assert_allclose(out[:, 4].numpy(), expected, rtol=1e-6)
    assert not valid[:, 4].any() and valid[:, keep].all()
    assert torch.equal(out[:, keep], call(contract(), x)[0][:, keep])


def test_landsat_passes_after_a_deliberate_translation(rng: np.random.Generator) -> None:
    six = contract(bands=("B02", "B03", "B04", "B08", "B11", "B12"))
    x = image(rng)
    landsat = ("B1", "B2", "B3", "B4", "B5", "B7")
    names = translate_bands(landsat, source="landsat5_tm", target="sentinel2_l1c")
    assert torch.equal(call(six, x, names)[0], call(six, x, six.bands)[0])
    with pytest.raises(UserError, match="translate the names deliberately"):
        call(six, x, landsat, sensor="landsat5_tm")


def test_untagged_physical_values_pass(rng: np.random.Generator) -> None:
    x = image(rng)
    assert torch.equal(call(contract(), x, quantity=None)[0], call(contract(), x)[0])


def test_a_dark_band_alone_does_not_condemn_a_batch(rng: np.random.Generator) -> None:
    x = image(rng)
    x[:, 0] = 1e-4  # judged over all bands: clear water has bands of nothing
    assert torch.isfinite(call(contract(), x, quantity=None)[0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {"x": x * 10000, "quantity": None}, "apply the product's scale and offset once"),
        (
            lambda x: {"x": x * 10000},
            "apply the product's scale and offset once",
        ),  # a tag does not make numbers plausible
        (lambda x: {"x": x / 10000, "quantity": None}, "scaled twice"),  # So2Sat is reflectance already; / 10000 again
        (lambda x: {"x": x, "quantity": Quantity.DN}, "expected toa_reflectance, got dn"),
        (lambda x: {"x": x, "quantity": Quantity.BOA_REFLECTANCE}, "expected toa_reflectance, got boa_reflectance"),
        (lambda x: {"x": x, "sensor": "sentinel2_l2a"}, "expected bands of sentinel2_l1c, got bands of sentinel2_l2a"),
        (lambda x: {"x": x[:, :5], "bands": BANDS[:5]}, "without B11"),
        (lambda x: {"x": x, "bands": ("a", "b", "c", "d", "e", "f")}, "name the channels"),
        (lambda x: {"x": x, "bands": ("B02", "blue", "B04", "B08", "B8A", "B11")}, "B02 and blue for B02"),
        (lambda x: {"x": x, "bands": BANDS[:5]}, "one name per channel"),
        (lambda x: {"x": x[0]}, "one name per channel"),
        (lambda x: {"x": (x * 10000).to(torch.int16)}, "floating-point"),
    ],
)
def test_refuses(rng: np.random.Generator, change, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(contract(), **change(image(rng)))


def test_refuses_what_is_missing_altogether_under_any_policy(rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match="name the channels"):
        call(contract(missing="fill_mean"), image(rng)[:, :1], ("B10",))


def test_refuses_to_crop_beyond_the_image(rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match="at least 8 px to crop"):
        call(contract(resize="crop"), image(rng, size=6))


def test_refuses_linear_power_given_as_decibel() -> None:
    p = sar(quantity=Quantity.GAMMA0_DB, convert=(), range=Quantity.GAMMA0_DB.plausible)
    with pytest.raises(UserError, match="looks like linear power"):
        p(torch.full((1, 2, 8, 8), 0.05), bands=("VV", "VH"), quantity=None, sensor="sentinel1_rtc")
    with pytest.raises(UserError, match="below it"):
        sar()(torch.full((1, 2, 8, 8), -12.0), bands=("VV", "VH"), quantity=None, sensor="sentinel1_rtc")


def test_a_few_outliers_are_data(rng: np.random.Generator) -> None:
    x = image(rng)
    x[0, 0, 0, 0] = 3.2  # sun glint
    assert torch.isfinite(call(contract(), x)[0]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize": "tosize"}, "did you mean 'to_size'"),
        ({"interpolation": "lanczos"}, "expected interpolation out of"),
        ({"missing": "ignore"}, "expected missing out of"),
        ({"invalid": "zero"}, "expected invalid out of"),
        ({"mean": MEAN[:5]}, "one mean and one std for each of 6 bands"),
        ({"std": (0.0, *STD[1:])}, "positive std of B02"),
        ({"mean": (float("nan"), *MEAN[1:])}, "finite mean"),
        ({"clip": (1.0, 0.0)}, "low < high"),
        ({"interpolation": "nearest"}, "antialias only with"),
        ({"size_px": 0}, "size_px >= 1"),
        ({"gsd_m": (20.0, 10.0)}, "low <= high"),
        ({"bands": ("B02", "B99", *BANDS[2:])}, "got 'B99'"),
        ({"convert": ("dn->toa_reflectance",)}, "between a power and its own dB form"),
        ({"convert": ("gamma0->sigma0_db",)}, "between a power and its own dB form"),
        ({"convert": ("gamma0->gamma0_db",)}, "starts from toa_reflectance"),
        ({"convert": ("to dB",)}, "such as gamma0->gamma0_db"),
    ],
)
def test_refuses_a_contract_that_contradicts_itself(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        contract(**changes)


@pytest.mark.parametrize(
    "p", [contract(), contract(clip=(0.0, 1.0), missing="zero", gsd_m=(10.0, 30.0)), sar(clip=(-35.0, 5.0))]
)
def test_json_keeps_everything(p: Preprocessing) -> None:
    back = Preprocessing.from_json(json.loads(json.dumps(p.to_json())))
    assert back == p and back.fingerprint == p.fingerprint
    assert back.fingerprint != dataclasses.replace(p, size_px=9).fingerprint


def test_json_assumes_nothing() -> None:
    values = contract().to_json()
    for key in values:
        with pytest.raises(UserError, match=f"without {key}"):
            Preprocessing.from_json({k: v for k, v in values.items() if k != key})
    with pytest.raises(UserError, match="did you mean 'antialias'"):
        Preprocessing.from_json({**values, "antialiasing": True})


def test_the_contract_of_a_stream_follows_names() -> None:
    stream = SimpleNamespace(sensor="sentinel2_l1c", quantity=TOA, bands=BANDS, gsd_m=20.0, size_px=32)
    stats = SimpleNamespace(quantity=TOA, mean=np.array(MEAN), std=np.array(STD))
    p = Preprocessing.of_stream(stream, stats, bands=("swir16", "B8A"))
    assert (p.bands, p.mean, p.std, p.size_px, p.gsd_m) == (
        ("B11", "B8A"),
        (MEAN[5], MEAN[4]),
        (STD[5], STD[4]),
        32,
        (20.0, 20.0),
    )
    with pytest.raises(UserError, match="got B12; ingest them"):
        Preprocessing.of_stream(stream, stats, bands=("B12",))
    with pytest.raises(UserError, match="statistics of the stream's 6 bands"):
        Preprocessing.of_stream(stream, SimpleNamespace(quantity=TOA, mean=np.zeros(3), std=np.ones(3)))


def measured(quantity: Quantity, bands: tuple[str, ...], pixels: np.ndarray) -> SimpleNamespace:
    """Statistics of pixels [C, n] in one quantity, as a corpus gives them."""
    count = np.full(len(bands), pixels.shape[1])
    return SimpleNamespace(
        quantity=quantity, bands=bands, count=count, mean=pixels.mean(axis=1), std=pixels.std(axis=1)
    )


def test_statistics_of_streams_with_different_means_are_those_of_all_their_pixels(rng: np.random.Generator) -> None:
    """Winter and summer differ more than the pixels of either: what lies between the streams is part of the spread."""
    first, second = (
        SimpleNamespace(sensor="sentinel2_l1c", quantity=TOA, gsd_m=gsd, size_px=32) for gsd in (60.0, 10.0)
    )
    first.bands, second.bands = ("B02", "B04", "B8A"), ("B8A", "B02")
    winter = np.array([[0.6], [0.6], [0.5]]) + 0.02 * rng.normal(size=(3, 4000))
    summer = np.array([[0.4], [0.1]]) + 0.05 * rng.normal(size=(2, 1000))
    parts = [(first, measured(TOA, first.bands, winter)), (second, measured(TOA, second.bands, summer))]
    together = np.concatenate([winter[[2, 0]], summer], axis=1)  # [B8A and B02, all pixels]
    p = Preprocessing.of_streams(parts, bands=("B8A", "B02"))
    np.testing.assert_allclose(p.mean, together.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(p.std, together.std(axis=1), rtol=1e-12)
    assert p.std[1] > 3 * 0.05 and p.bands == ("B8A", "B02") and p.gsd_m == (10.0, 60.0)

    parts[1][1].count[:] = 0  # a stream without a valid pixel has no mean
    parts[1][1].mean[:] = parts[1][1].std[:] = np.nan
    np.testing.assert_allclose(Preprocessing.of_streams(parts, bands=("B8A",)).mean, winter[2].mean(), rtol=1e-12)
    with pytest.raises(UserError, match=r"bands of the stream \(B8A, B02\), got B04"):
        Preprocessing.of_streams(parts)
    second.size_px = 64
    with pytest.raises(UserError, match="streams of one sensor, quantity and size"):
        Preprocessing.of_streams(parts, bands=("B8A",))


@pytest.mark.parametrize("quantity", Quantity)
def test_a_power_is_normalised_in_decibel_and_every_other_quantity_as_it_is(quantity: Quantity) -> None:
    sensor, bands = ("sentinel2_l1c", ("B02", "B04")) if quantity is TOA else ("sentinel1_rtc", ("VV", "VH"))
    stream = SimpleNamespace(sensor=sensor, quantity=quantity, bands=bands, gsd_m=10.0, size_px=32)
    final = Quantity(f"{quantity}_db") if quantity in ("sigma0", "gamma0", "beta0") else quantity
    stats = measured(final, bands, np.array([[1.0, 3.0], [2.0, 6.0]]))
    p = Preprocessing.of_stream(stream, stats)
    assert (p.quantity, p.final_quantity, p.mean, p.std) == (quantity, final, (2.0, 4.0), (1.0, 2.0))
    assert Preprocessing.of_streams([(stream, stats)]) == p
    if final != quantity:
        with pytest.raises(UserError, match=f"expected statistics in {final}, got {quantity};"):
            Preprocessing.of_stream(stream, measured(quantity, bands, np.array([[1.0, 3.0], [2.0, 6.0]])))


@pytest.mark.parametrize(("columns", "is_valid"), [(2, False), (3, True)])
def test_a_resampled_pixel_counts_as_measured_when_most_of_its_kernel_was(
    rng: np.random.Generator, columns: int, is_valid: bool
) -> None:
    """Of blocks five columns wide two or three are measured: 0.4 is less than half of the kernel, 0.6 is more."""
    x = image(rng, size=10)
    x[..., columns:5] = torch.nan
    p = contract(size_px=2, interpolation="area", antialias=False)
    out, valid = p(x, bands=BANDS, quantity=TOA, sensor="sentinel2_l1c")
    assert bool(valid[..., 1].all()) and bool((valid[..., 0] == is_valid).all())
    mean = (
        x[..., :5, :columns].mean(dim=(2, 3)) if is_valid else torch.tensor(MEAN)
    )  # of measured pixels, or 0 after all
    torch.testing.assert_close(out[..., 0, 0], ((mean - torch.tensor(MEAN)) / torch.tensor(STD)).expand(3, -1))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "bilinear-corners", "nearest", "area"])
@pytest.mark.parametrize("shape", [(8, 16), (16, 8), (24, 16)])
def test_images_that_are_not_square_are_never_squeezed(
    interpolation: str, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    x = torch.nn.functional.interpolate(image(rng), size=shape)
    smooth = interpolation in ("bilinear", "bicubic")
    with pytest.raises(
        UserError, match=rf"expected square images .* got {shape[0]} x {shape[1]} px; cut square windows"
    ):
        call(contract(interpolation=interpolation, antialias=smooth), x)
    ready, _ = call(contract(resize="native"), x)
    assert ready.shape[2:] == shape
    top, left = (shape[0] - 8) // 2, (shape[1] - 8) // 2
    cropped, _ = call(contract(resize="crop"), x)
    assert torch.equal(cropped, ready[..., top : top + 8, left : left + 8])
