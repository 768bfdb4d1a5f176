"""Views in physical units: each change against its closed form, what it may not touch, and the streams it refuses."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import View
from eo_ssl.objectives import Step, ViewSpec, override_views
from eo_ssl.objectives.views import PHYSICAL
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining import ItemBatch, ItemLoader, ViewMaker, view_maker
from eo_ssl.pretraining.physical_changes import (
    Chance,
    add_decibels,
    blur,
    compute_blur_taps,
    compute_haze_spectrum,
    draw_speckle,
    drop_bands,
)
from eo_ssl.sensors import Quantity
from runs import make_loader, preprocessing

OPTICAL = preprocessing()  # B02, B03, B04 of Sentinel-2, 16 px
POWER = dataclasses.replace(
    OPTICAL,
    sensor="sentinel1_grd",
    quantity=Quantity.SIGMA0,
    bands=("VV", "VH"),
    range=Quantity.SIGMA0.plausible,
    mean=(0.1, 0.02),
    std=(0.08, 0.015),
)
DECIBEL = dataclasses.replace(POWER, convert=("sigma0->sigma0_db",), mean=(-10.0, -17.0), std=(3.0, 4.0))
AMPLITUDE = dataclasses.replace(
    POWER,
    sensor="sar_chip",
    quantity=Quantity.AMPLITUDE,
    bands=("SAR",),
    range=Quantity.AMPLITUDE.plausible,
    mean=(0.3,),
    std=(0.2,),
)
STILL = {"crop": None, "flips": False}
EVERYTHING = {"offset": 0.01, "sun_deg": (20, 60), "haze": 0.05, "mtf": 0.2, "snr": 50.0, "drop_bands": 0.3}


def normalise(physical: torch.Tensor, contract: Preprocessing) -> tuple[torch.Tensor, torch.Tensor]:
    """What the contract makes of values in its quantity."""
    return contract(physical, bands=contract.bands, quantity=contract.quantity, sensor=contract.sensor)


def restore(image: torch.Tensor, contract: Preprocessing) -> torch.Tensor:
    """Values in the final quantity, float64."""
    mean, std = (torch.tensor(x, dtype=torch.float64).view(1, -1, 1, 1) for x in (contract.mean, contract.std))
    return image.double() * std + mean


def look(
    image: torch.Tensor, valid: torch.Tensor, contract: Preprocessing = OPTICAL, *, seed: int = 0, **changes: object
) -> View:
    """One view of tiles with these fields."""
    batch = ItemBatch({"tile": (image[:, None], valid[:, None])}, torch.arange(len(image)), Step(0, 1, seed))
    (view,) = ViewMaker({"tile": ViewSpec(**changes)}, {"tile": contract})(batch).all_views()
    return view


def tiles(n: int = 8, *, contract: Preprocessing = OPTICAL, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Plausible values of the contract's quantity, and validity, all true."""
    low, high = (0.05, 0.4) if contract is not DECIBEL and contract is not POWER else (0.01, 0.3)
    share = torch.rand(n, len(contract.bands), size, size, generator=torch.Generator().manual_seed(3))
    physical = low + (high - low) * share
    return physical, torch.ones_like(physical, dtype=torch.bool)


# Reflectance


def test_haze_adds_the_inverse_fourth_power_of_the_wavelength_to_reflectance() -> None:
    physical, _ = tiles(200)
    image, valid = normalise(physical, OPTICAL)
    added = restore(look(image, valid, **STILL, haze=0.04).image, OPTICAL) - restore(image, OPTICAL)
    spread = added.amax((2, 3)) - added.amin((2, 3))
    assert spread.max() < 1e-7  # the same for every pixel
    path = added.mean((2, 3))  # [200, 3]
    for band, um in enumerate((0.4927, 0.5598, 0.6646)):  # Sentinel-2A
        torch.testing.assert_close(path[:, band], path[:, 1] * (0.5598 / um) ** 4, rtol=1e-4, atol=1e-8)
    amount = path[:, 1] * (0.5598 / 0.55) ** 4
    assert 0 <= amount.min() < 0.001 and 0.039 < amount.max() <= 0.04 + 1e-7
    assert float(compute_haze_spectrum([1.1])) == pytest.approx(1 / 16, rel=1e-12)


def test_the_sun_changes_all_bands_by_one_ratio_of_cosines() -> None:
    physical, _ = tiles(300)
    image, valid = normalise(physical, OPTICAL)
    ratio = restore(look(image, valid, **STILL, sun_deg=(20, 60)).image, OPTICAL) / restore(image, OPTICAL)
    assert (ratio.amax((1, 2, 3)) - ratio.amin((1, 2, 3))).max() < 1e-5
    ratio = ratio[:, 0, 0, 0]
    largest = math.cos(math.radians(20)) / math.cos(math.radians(60))
    assert 1 / largest <= ratio.min() < 0.62 and 1.62 < ratio.max() <= largest
    assert abs(float(ratio.log().mean())) < 3 * float(ratio.log().std()) / 300**0.5  # either way alike
    torch.testing.assert_close(look(image, valid, **STILL, sun_deg=(40, 40)).image, image, rtol=0, atol=0)


def test_offset_and_noise_have_the_stated_size_in_each_band() -> None:
    physical, _ = tiles(300)
    image, valid = normalise(physical, OPTICAL)
    before = restore(image, OPTICAL)
    added = restore(look(image, valid, **STILL, offset=0.02).image, OPTICAL) - before
    assert (added.amax((2, 3)) - added.amin((2, 3))).max() < 1e-7 and added.abs().max() <= 0.02 + 1e-7
    assert added.min() < -0.019 and added.max() > 0.019
    assert (torch.corrcoef(added[:, :, 0, 0].T) - torch.eye(3)).abs().max() < 0.2
    ratios = {"B04": 25.0, "B02": 100.0, "B03": 50.0}  # by name, in any order
    noise = restore(look(image, valid, **STILL, snr=ratios).image, OPTICAL) - before
    for band, (name, mean) in enumerate(zip(OPTICAL.bands, OPTICAL.mean, strict=True)):
        assert float(noise[:, band].std()) == pytest.approx(mean / ratios[name], rel=0.02)  # 0.4 % standard error
    assert abs(float((noise[..., 1:] * noise[..., :-1]).mean() / noise.var())) < 0.02


@pytest.mark.parametrize("mtf", [0.1, 0.3, 0.7])
def test_a_planted_wave_loses_contrast_as_the_gaussian_says(mtf: float) -> None:
    x = torch.arange(36, dtype=torch.float64)
    sigma = math.sqrt(-2 * math.log(mtf)) / math.pi  # of exp(-2 pi^2 sigma^2 f^2) = mtf at f = 0.5
    for period, tolerance in ((2, 1e-12), (3, 1e-12), (6, 1e-12), (4, 0.02)):  # Nyquist, two more, and one between
        wave = torch.cos(2 * math.pi * x / period)
        image = wave.expand(1, 1, 36, 36)
        valid = torch.ones_like(image, dtype=torch.bool)
        for turned in (image, image.transpose(2, 3)):
            got = blur(turned, valid, torch.full((1, 1), mtf, dtype=torch.float64))
            inner = (got if turned is image else got.transpose(2, 3))[0, 0, 18, 6:-6]
            wanted = math.exp(-2 * (math.pi * sigma / period) ** 2)
            torch.testing.assert_close(inner, wanted * wave[6:-6], rtol=0, atol=tolerance)
    taps = compute_blur_taps(torch.tensor(mtf))
    frequency = torch.linspace(0, 0.5, 101, dtype=torch.float64)
    response = torch.cos(2 * math.pi * frequency[:, None] * torch.arange(-3, 4)) @ taps
    assert (response - torch.exp(-2 * (math.pi * sigma * frequency) ** 2)).abs().max() < 0.05
    assert float(taps.sum()) == pytest.approx(1, abs=1e-12) and torch.equal(taps, taps.flip(0))


def test_a_blur_weighs_measured_pixels_only_and_commutes_with_normalisation() -> None:
    physical, valid = (x.clone() for x in tiles(2, size=24))
    valid[:, :, 5:9, 7:15] = False
    valid[:, :, 15, 15] = True
    valid[:, :, 14:20, 14:20] = False
    valid[:, :, 16, 16] = True  # alone
    mtf = torch.tensor([[0.05, 0.3, 0.6]]).expand(2, 3)
    mean, std = (torch.tensor(x, dtype=torch.float64).view(1, -1, 1, 1) for x in (OPTICAL.mean, OPTICAL.std))
    physical = physical.double()
    blurred = blur(physical, valid, mtf)
    assert (blurred[valid] > 0).all() and (blurred[valid] < 0.5).all()
    again = blur((physical - mean) / std, valid, mtf) * std + mean
    torch.testing.assert_close(again[valid], blurred[valid], rtol=1e-12, atol=0)
    flat = blur(torch.full_like(physical, 0.3), valid, mtf)  # a hole bleeds nothing into a flat tile
    torch.testing.assert_close(flat[valid], torch.full_like(flat[valid], 0.3), rtol=1e-12, atol=0)
    whole = torch.ones_like(valid)
    torch.testing.assert_close(blur(0.3 * whole.double(), whole, mtf), 0.3 * whole.double(), rtol=1e-12, atol=0)
    poisoned = torch.where(valid, physical, torch.tensor(float("nan"), dtype=torch.float64))
    assert torch.equal(blur(poisoned, valid, mtf)[valid], blurred[valid])
    torch.testing.assert_close(blur(physical, valid, torch.ones(2, 3))[valid], physical[valid], rtol=1e-12, atol=0)


# Backscatter


@pytest.mark.parametrize("looks", [1.0, 4.4])
def test_speckle_has_mean_one_and_the_variance_of_its_looks(looks: float) -> None:
    factor = draw_speckle((400_000,), looks=looks, rng=torch.Generator().manual_seed(0)).double()
    error = 400_000**-0.5
    assert abs(float(factor.mean()) - 1) < 4 * looks**-0.5 * error
    fourth = 3 * (1 + 2 / looks) / looks**2  # central moment of the gamma distribution
    assert abs(float(factor.var()) - 1 / looks) < 4 * (fourth - looks**-2) ** 0.5 * error
    assert float((factor - 1).pow(3).mean()) == pytest.approx(2 / looks**2, rel=0.1)


@pytest.mark.parametrize("contract", [POWER, DECIBEL, AMPLITUDE], ids=["power", "dB", "amplitude"])
def test_speckle_multiplies_power_whatever_the_image_is_normalised_in(contract: Preprocessing) -> None:
    level = 0.1 if contract is not AMPLITUDE else 0.1**0.5
    image, valid = normalise(torch.full((160, len(contract.bands), 16, 16), level), contract)
    seen = restore(look(image, valid, contract, **STILL, looks=4.0).image, contract)
    power = 10 ** (seen / 10) if contract is DECIBEL else seen**2 if contract is AMPLITUDE else seen
    factor = power / 0.1
    error = factor.numel() ** -0.5
    assert abs(float(factor.mean()) - 1) < 4 * 0.5 * error
    assert float(factor.var()) == pytest.approx(0.25, abs=4 * (3 * 1.5 / 16 - 1 / 16) ** 0.5 * error)
    if len(contract.bands) > 1:  # bands speckle for themselves
        assert torch.corrcoef(factor.transpose(0, 1).flatten(1))[0, 1].abs() < 0.04


def test_speckle_lies_on_the_sensors_pixels_not_on_the_views() -> None:
    image, valid = normalise(torch.full((160, 2, 16, 16), 0.1), POWER)
    half = restore(look(image, valid, POWER, crop=None, flips=False, size=0.5, looks=4.0).image, POWER) / 0.1
    assert float(half.mean()) == pytest.approx(1, abs=0.015)
    assert float(half.var()) == pytest.approx(0.25 / 4, rel=0.1)  # means of 2 x 2 pixels


def test_gain_and_drift_are_decibels() -> None:
    physical, _ = tiles(300, contract=DECIBEL)
    image, valid = normalise(physical, DECIBEL)
    before = restore(image, DECIBEL)
    raised = restore(look(image, valid, DECIBEL, **STILL, gain_db=1.5).image, DECIBEL) - before
    assert (raised.amax((2, 3)) - raised.amin((2, 3))).max() < 1e-5
    assert raised.min() + 1e-5 >= -1.5 and raised.min() < -1.45 and 1.45 < raised.max() <= 1.5 + 1e-5
    drift = restore(look(image, valid, DECIBEL, **STILL, drift_db=2.0).image, DECIBEL) - before
    across = drift[..., -1] - drift[..., 0]  # [300, 2, 16]
    assert across.abs().max() <= 2 + 1e-5 and across.max() > 1.95 and across.min() < -1.95
    assert drift.mean(3).abs().max() < 1e-5 and drift.diff(dim=3).std(dim=3).max() < 1e-5
    linear = normalise(physical.double(), POWER)[0].double()
    twice = add_decibels(linear, torch.tensor(3.0, dtype=torch.float64), POWER)
    torch.testing.assert_close(restore(twice, POWER), 10**0.3 * restore(linear, POWER), rtol=1e-12, atol=0)
    back = add_decibels(twice, torch.tensor(-3.0, dtype=torch.float64), POWER)
    torch.testing.assert_close(back, linear, rtol=1e-12, atol=1e-12)


def test_decibels_stay_above_the_floor_that_the_contract_reads_with() -> None:
    native = dataclasses.replace(DECIBEL, resize="native")
    image, _ = normalise(torch.tensor([-1e-4, 1e-5, 0.1]).view(1, 1, 1, 3).expand(1, 2, 1, 3), native)
    assert torch.equal(add_decibels(image, torch.zeros(()), DECIBEL), image)
    lower = restore(add_decibels(image, torch.tensor(-5.0), DECIBEL), DECIBEL)
    wanted = torch.tensor([-50.0, -50.0, -15.0], dtype=torch.float64)
    torch.testing.assert_close(lower[0, 0, 0], wanted, rtol=0, atol=1e-5)


# What holds for all


def test_a_dropped_band_is_missing_not_zero_and_one_measured_band_stays() -> None:
    valid = torch.ones(2000, 3, 4, 4, dtype=torch.bool)
    left = drop_bands(valid, share=0.4, rng=torch.Generator().manual_seed(0)).any((2, 3))
    assert left.any(1).all()
    assert float((~left).double().mean()) == pytest.approx(0.4 - 0.4**3 / 3, abs=0.02)  # but the last of all three
    valid[:, :2] = False  # nothing but the third is measured
    left = drop_bands(valid, share=0.9, rng=torch.Generator().manual_seed(0)).any((2, 3))
    assert left[:, 2].all() and not left[:, :2].any()
    view = look(*normalise(tiles()[0], OPTICAL), **STILL, drop_bands=0.5)
    gone = ~view.valid.any((2, 3))
    assert gone.any() and torch.equal(gone, ~view.valid.all((2, 3)))
    assert (view.image[gone] == 0).all() and (view.image[~gone] != 0).any((1, 2)).all()


@pytest.mark.parametrize(
    ("contract", "changes"), [(OPTICAL, EVERYTHING), (DECIBEL, {"looks": 4.4, "gain_db": 1.0, "drift_db": 1.0})]
)
def test_nodata_neither_changes_nor_leaks_and_the_seed_decides(contract: Preprocessing, changes: dict) -> None:
    image, valid = normalise(tiles(contract=contract)[0], contract)
    valid = torch.rand(valid.shape, generator=torch.Generator().manual_seed(5)) > 0.3
    clean = look(image, valid, contract, **changes)
    poisoned = look(torch.where(valid, image, torch.tensor(float("nan"))), valid, contract, **changes)
    assert torch.equal(clean.image, poisoned.image) and torch.equal(clean.valid, poisoned.valid)
    assert torch.isfinite(clean.image).all() and (clean.image[~clean.valid] == 0).all()
    still = look(image, valid, contract, **STILL, **{k: v for k, v in changes.items() if k != "drop_bands"})
    assert torch.equal(still.valid, valid)
    again, other = (look(image, valid, contract, seed=seed, **changes) for seed in (0, 1))
    assert torch.equal(again.image, clean.image) and not torch.equal(other.image, clean.image)


def test_one_change_moves_no_others_numbers_and_none_is_the_plain_view() -> None:
    image, valid = normalise(tiles()[0], OPTICAL)
    plain = look(image, valid, gain=0.2, noise=0.1)
    unchanged = look(image, valid, gain=0.2, noise=0.1, haze=0.0, sun_deg=None, mtf=1, drop_bands=0)
    assert torch.equal(plain.image, unchanged.image)
    hazy, both = look(image, valid, **STILL, haze=0.1).image, look(image, valid, **STILL, haze=0.1, offset=0.1).image
    offset = look(image, valid, **STILL, offset=0.1).image
    torch.testing.assert_close(both - hazy, offset - image, rtol=0, atol=1e-5)
    dropped = look(image, valid, gain=0.2, noise=0.1, drop_bands=0.5)
    assert torch.equal(dropped.image[dropped.valid], plain.image[dropped.valid])


@pytest.mark.parametrize(
    ("contract", "changes"), [(OPTICAL, EVERYTHING), (DECIBEL, {"looks": 4.4, "gain_db": 1.0, "drift_db": 1.0})]
)
def test_every_change_has_random_numbers_of_its_own(
    contract: Preprocessing, changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[Chance] = []
    original = view_maker._generator
    monkeypatch.setattr(view_maker, "_generator", lambda *at: kinds.append(at[-1]) or original(*at))
    image, valid = normalise(tiles(contract=contract)[0], contract)
    look(image, valid, contract, **changes)
    assert len(kinds) == len(set(kinds)) == 2 + len(changes)  # and two for geometry and radiometry


def make(spec: ViewSpec, **contracts: Preprocessing) -> ViewMaker:
    return ViewMaker({"tile": spec}, contracts)


@pytest.mark.parametrize(
    ("field", "value", "contract", "words"),
    [
        (
            "haze",
            0.1,
            DECIBEL,
            "a stream of reflectance for haze in the views of 'tile', got sigma0_db; leave out haze",
        ),
        ("sun_deg", (20, 60), POWER, "a stream of reflectance for sun_deg .* got sigma0;"),
        ("looks", 4.0, OPTICAL, "a stream of backscatter for looks in the views of 'tile', got boa_reflectance;"),
        ("drift_db", 1.0, OPTICAL, "a stream of backscatter for drift_db"),
        ("drop_bands", 0.5, AMPLITUDE, "a stream of several bands for drop_bands in the views of 'tile', got one band"),
        ("snr", {"B02": 100.0}, OPTICAL, "snr of the bands B02, B03, B04 in the views of 'tile', got B02; give one"),
    ],
)
def test_a_stream_of_another_quantity_is_refused(
    field: str, value: object, contract: Preprocessing, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        make(ViewSpec(**{field: value}), tile=contract)


def test_thermal_bands_and_plain_numbers_are_no_reflectance() -> None:
    thermal = dataclasses.replace(OPTICAL, sensor="landsat8_oli", bands=("B2", "B4", "B10"))
    with pytest.raises(
        UserError, match="bands that reflect the sun in the views of 'tile', got B10; leave the band out"
    ):
        make(ViewSpec(haze=0.1), tile=thermal)
    numbers = dataclasses.replace(OPTICAL, quantity=Quantity.DN, range=Quantity.DN.plausible)
    for change in ({"haze": 0.1}, {"looks": 4.0}):
        with pytest.raises(UserError, match="got dn; leave out"):
            make(ViewSpec(**change), tile=numbers)


def test_the_streams_of_a_pair_take_the_changes_of_their_quantity() -> None:
    contracts = {"s1": DECIBEL, "s2": OPTICAL}
    (radar, known), (optical, measured) = (normalise(tiles(contract=c)[0], c) for c in contracts.values())
    streams = {"s1": (radar[:, None], known[:, None]), "s2": (optical[:, None], measured[:, None])}
    spec = ViewSpec(count=2, **STILL, haze=0.05, looks=4.0)
    first, second = make(spec, **contracts)(ItemBatch(streams, torch.arange(8), Step(0, 1, 0))).all_views()
    assert not torch.equal(first.image, radar) and not torch.equal(second.image, optical)
    assert (second.image > optical).all()
    with pytest.raises(UserError, match="a stream of reflectance for haze in the views of 'radar', got sigma0_db"):
        ViewMaker({"radar": ViewSpec(stream="s1", haze=0.1), "optical": ViewSpec(stream="s2")}, contracts)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"offset": -0.1}, r"offset within \[0, 1\), got -0.1"),
        ({"haze": 1.0}, "haze within"),
        ({"sun_deg": (60, 20)}, "sun_deg as an increasing pair"),
        ({"sun_deg": (20, 60, 70)}, "sun_deg as an increasing pair"),
        ({"sun_deg": (20, 90)}, "sun_deg as an increasing pair"),
        ({"mtf": 0}, r"mtf within \(0, 1\], got 0"),
        ({"snr": 0}, "snr above 0, got 0"),
        ({"snr": {"B02": -1.0}}, "snr above 0"),
        ({"looks": 0}, "looks above 0"),
        ({"gain_db": -1}, "gain_db of at least 0"),
        ({"drift_db": float("nan")}, "drift_db of at least 0"),
        ({"drop_bands": 1.0}, "drop_bands within"),
        ({"haze": "much"}, "expected numbers in the views of 'tile'"),
        ({"sun_deg": 30}, "expected numbers in the views of 'tile'"),
    ],
)
def test_numbers_out_of_range_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        override_views({"tile": ViewSpec()}, {"tile": changes})


def test_views_of_a_run_that_goes_on_are_those_of_one_that_nobody_stopped() -> None:
    spec = ViewSpec(count=2, crop=(0.4, 0.9), **EVERYTHING)

    def show(loader: ItemLoader) -> list[torch.Tensor]:
        maker = ViewMaker({"tile": spec}, loader.items.contracts)
        return [torch.stack([view.image for view in maker(batch).all_views()]) for batch in loader]

    whole = show(make_loader(steps=4))
    first = make_loader(steps=4)
    for _ in zip(range(2), first, strict=False):
        state = first.state_dict()
    again = make_loader(steps=4, ahead=False)  # reads in the step itself, not in a thread before it
    again.load_state_dict(state)
    rest = show(again)
    assert len(rest) == 2 and all(torch.equal(a, b) for a, b in zip(rest, whole[2:], strict=True))
    assert not torch.equal(whole[0], whole[1]) and not torch.equal(whole[0][0], whole[0][1])


def test_what_is_not_asked_for_is_not_written_down() -> None:
    spec = ViewSpec(haze=0.1, snr={"B02": 9.0})
    assert spec.list_changes(PHYSICAL) == ["haze", "snr"] and ViewSpec(gain=0.1).list_changes(PHYSICAL) == []
