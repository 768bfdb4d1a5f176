"""Contracts of TorchGeo's weights: what they make of physical images equals what TorchGeo's transforms make of its numbers."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchgeo.datasets import EuroSAT
from torchvision.models._api import Weights, WeightsEnum

from bench.weights_table import tabulate_weights
from eo_ssl.encoder import ExternalEncoder, Readout, derive_contract, list_weights, load_encoder
from eo_ssl.encoder.contracts import read_steps
from eo_ssl.encoder.origins import RULES, Origin
from eo_ssl.encoder.torchgeo_weights import find_weights
from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing


def full_name(weights: Any) -> str:
    return f"{type(weights).__name__}.{weights.name}"


def is_refused(weights: Any) -> bool:
    found = next(found for pattern, found in RULES if fnmatchcase(full_name(weights), pattern))
    return isinstance(found, str)


WEIGHTS = list_weights()
EXPRESSED = [weights for weights in WEIGHTS if not is_refused(weights)]
RIGHT = [
    weights for weights in EXPRESSED if weights.name != "SENTINEL2_RGB_SECO"
]  # whose transforms do what their authors did
BLANK = "B10"  # of Sentinel-2, which the Level-2A images of CrisisLandMark do not have


class Seen(nn.Module):
    """A network that returns what it gets."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


def seen(weights: Any, x: Tensor) -> Tensor:
    """What the network behind ``weights`` would get of the contract's output x."""
    how = derive_contract(weights)
    readout = Readout("seen", window_px=how.window_px, blank=how.blank)
    return ExternalEncoder(Seen(), how.preprocessing, name="seen", readout=readout, provenance={}).features(x)


def canonical(band: str, sensor: str) -> str:
    """Band names of the metadata in our spelling, by hand."""
    if sensor.startswith("sentinel2"):
        number = band[1:].upper()
        return f"B{number}" if number == "8A" else f"B{int(number):02d}"
    return band.removeprefix("SR_")


def physical(contract: Preprocessing, size: int, seed: int = 0) -> dict[str, Tensor]:
    """Random images of each band, [1, size, size], inside what the authors clipped to and what is plausible."""
    rng = torch.Generator().manual_seed(seed)
    low, high = {"sigma0_db": (-30.0, 5.0), "dn": (0.0, 255.0)}.get(contract.quantity.value, (0.02, 0.29))
    return {band: torch.rand(1, size, size, generator=rng) * (high - low) + low for band in contract.bands}


def through_contract(weights: Any, bands: dict[str, Tensor]) -> Tensor:
    """What the network gets of ``bands``, given in a scrambled order by name."""
    contract = derive_contract(weights).preprocessing
    order = sorted(bands, key=lambda band: band[::-1])
    image = torch.stack([bands[band] for band in order], dim=1)
    x, valid = contract(image, bands=order, quantity=contract.quantity, sensor=contract.sensor)
    assert bool(valid.all())
    return seen(weights, x)


def numbers_per_unit(weights: Any, contract: Preprocessing, band: str) -> float:
    """What one unit of the physical quantity is in the numbers that TorchGeo's transforms take, by hand."""
    if weights.name == "CITYSCAPES_SEMSEG":
        return 1 / 255
    if contract.quantity in ("dn", "sigma0_db"):
        return 1.0
    if contract.sensor.startswith("landsat"):
        return 256 / 0.3  # SSL4EO-L's stretch of surface reflectance
    true_colour = "SATLAS" in weights.name and band in ("B04", "B03", "B02")
    return 255 / 0.3558 if true_colour else 10_000.0


@pytest.mark.parametrize("weights", RIGHT, ids=full_name)
def test_contract_equals_torchgeos_transforms(weights: Any) -> None:
    contract = derive_contract(weights).preprocessing
    bands = physical(contract, 300)
    named = weights.meta.get("bands") or contract.bands
    channels = []
    for band in named:
        name = canonical(band, contract.sensor)
        if contract.sensor == "sentinel2_l2a" and name == BLANK:
            channels.append(torch.zeros(1, 300, 300))
        else:
            channels.append(bands[name] * numbers_per_unit(weights, contract, name))
    expected = weights.transforms(torch.stack(channels, dim=1).clone())
    torch.testing.assert_close(through_contract(weights, bands), expected.flatten(1), rtol=1e-5, atol=2e-5)


def test_every_member_has_a_contract_or_a_reason() -> None:
    used = set()
    for weights in WEIGHTS:
        pattern, found = next((p, f) for p, f in RULES if fnmatchcase(full_name(weights), p))
        used.add(pattern)
        if isinstance(found, Origin):
            how = derive_contract(weights)
            assert len(how.preprocessing.bands) + len(how.blank) == weights.meta["in_chans"]
        else:
            with pytest.raises(UserError, match="expected weights that a contract can express"):
                derive_contract(weights)
    assert len(WEIGHTS) > 100 and len(EXPRESSED) > 70
    # Patterns of a family may have no member in the installed TorchGeo; a rule that fits nothing else is a slip.
    unused = {p for p, _ in RULES} - used
    since_0_9 = {
        "DEO_*",
        "OlmoEarthV1_*",
        "Presto_*",
        "SatCLIP_*",
        "Tessera_*",
        "TileNet_*",
        "Unet_Weights.NAIP_RGBN_*",
    }
    newer = {p for p in unused if any(fnmatchcase(p, family) for family in since_0_9)}
    assert unused - newer <= {"*.SENTINEL1_*_DINO", "*.SENTINEL2_*_DECUR"}, unused


def test_seco_follows_its_authors_and_not_its_metadata() -> None:
    weights = find_weights("ResNet18_Weights.SENTINEL2_RGB_SECO")
    contract = derive_contract(weights).preprocessing
    assert contract.bands == ("B04", "B03", "B02") and contract.sensor == "sentinel2_l2a"
    bands = physical(contract, 256)
    quantiles = {"B04": (0.0, 129.0), "B03": (2.0, 103.0), "B02": (3.0, 88.0)}  # SeCo, seco_dataset.py
    imagenet = {"B04": (0.485, 0.229), "B03": (0.456, 0.224), "B02": (0.406, 0.225)}
    expected = []
    for band, (low, high) in quantiles.items():
        byte = bands[band] * 255  # SeCo, seco_downloader.py
        mean, std = imagenet[band]
        expected.append(((((byte - low) / (high - low)).clamp(0, 1)) - mean) / std)
    wanted = torch.stack(expected, dim=1)[..., 16:240, 16:240]
    torch.testing.assert_close(through_contract(weights, bands), wanted.flatten(1), rtol=1e-4, atol=1e-4)
    raw = torch.stack([bands[band] * 255 for band in contract.bands], dim=1)
    wrong = weights.transforms(raw.clone())
    assert float((wrong - wanted).abs().median()) > 10  # two orders of magnitude beside the mark


def test_satlas_values_are_cut_off_where_its_authors_did() -> None:
    weights = find_weights("Swin_V2_T_Weights.SENTINEL2_SI_MS_SATLAS")
    contract = derive_contract(weights).preprocessing
    bright = {band: torch.full((1, 256, 256), 0.9) for band in contract.bands}
    torch.testing.assert_close(through_contract(weights, bright), torch.ones(1, 9 * 256 * 256))
    radar = find_weights("Swin_V2_B_Weights.SENTINEL1_SI_SATLAS")
    strong = {band: torch.full((1, 256, 256), 4000.0) for band in ("VH", "VV")}
    torch.testing.assert_close(through_contract(radar, strong), torch.ones(1, 2 * 256 * 256))
    assert derive_contract(radar).preprocessing.bands == ("VH", "VV")  # the other way round than SSL4EO-S12


def test_surface_reflectance_of_landsat_is_not_sentinel_numbers() -> None:
    contract = derive_contract(find_weights("ViTSmall16_Weights.LANDSAT_OLI_SR_MOCO")).preprocessing
    assert (contract.sensor, contract.quantity.value, contract.bands[0]) == ("landsat8_oli", "boa_reflectance", "B1")
    image = torch.full((1, 7, 224, 224), 0.15)  # half of the stretch: 128 of 255
    x, _ = contract(image, bands=contract.bands, quantity="boa_reflectance", sensor="landsat8_oli")
    torch.testing.assert_close(x, torch.full_like(x, 128 / 255))


def test_eurosats_order_is_corrected_by_name() -> None:
    # TorchGeo's EuroSAT has B8A last, its weights have it between B08 and B09; fed as they come, five channels are exchanged.
    weights = find_weights("ResNet18_Weights.SENTINEL2_ALL_MOCO")
    encoder = load_encoder("torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO@random", seed=3)
    in_file = tuple(EuroSAT.all_band_names)
    assert in_file[-1] == "B8A" and encoder.preprocessing.bands.index("B8A") == 8
    rng = torch.Generator().manual_seed(1)
    # Bands differ as they do on the ground: B10 is dark, B8A bright.
    level = torch.linspace(0.05, 0.5, 13)[torch.randperm(13, generator=rng)].view(1, 13, 1, 1)
    image = level + 0.05 * torch.rand(2, 13, 64, 64, generator=rng)

    def named(order: list[int]) -> Tensor:
        contract = encoder.preprocessing
        names = [in_file[i] for i in order]
        x, valid = contract(image[:, order], bands=names, quantity="toa_reflectance", sensor="sentinel2_l1c")
        with torch.inference_mode():
            return encoder.features(x, valid=valid)

    ours = named(list(range(13)))
    assert all(torch.equal(named(torch.randperm(13, generator=rng).tolist()), ours) for _ in range(3))
    model: Any = encoder.model  # type: ignore[attr-defined]
    right = [in_file.index(canonical(band, "sentinel2_l1c")) for band in weights.meta["bands"]]
    with torch.inference_mode():
        reordered = model(weights.transforms(image[:, right] * 10_000))
        as_it_comes = model(weights.transforms(image * 10_000))
    torch.testing.assert_close(ours, reordered, rtol=1e-4, atol=1e-4)
    moved = (as_it_comes - reordered).norm(dim=1) / reordered.norm(dim=1)
    assert float(moved.min()) > 0.02, moved  # the same pixels, other features


def test_normalisations_in_a_row_are_one_and_foreign_steps_are_refused() -> None:
    from torchvision.transforms import v2

    steps = read_steps(
        nn.Sequential(v2.Normalize([10.0], [4.0]), v2.Normalize([1.0, 2.0], [0.5, 3.0])), channels=2, name="w"
    )
    assert steps.mean == (14.0, 18.0) and steps.std == (2.0, 12.0)
    for foreign in (v2.RandomHorizontalFlip(), v2.Resize(64), nn.Sequential(v2.CenterCrop(8), v2.Resize((4, 4)))):
        with pytest.raises(UserError, match="give a contract of your own"):
            read_steps(foreign, channels=3, name="w")


def test_unknown_weights_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'SENTINEL2_ALL_MOCO'"):
        find_weights("ResNet50_Weights.SENTINEL2_ALL_MOC")
    with pytest.raises(UserError, match="did you mean 'ResNet50_Weights'"):
        load_encoder("torchgeo:ResNet5_Weights.SENTINEL2_ALL_MOCO")


def test_foreign_weights_without_metadata_are_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"loader state a unit.*state it in a contract of your own \(preprocessing=\)"):
        load_encoder("torchgeo:ResNet50_Weights.SENTINEL1_GRD_CLOSP@random")

    class ResNet50_Weights(WeightsEnum):
        SENTINEL2_ALL_MOCO = Weights("file", nn.Identity(), {"in_chans": 13})
        MARS = Weights("file", nn.Identity(), {"in_chans": 13, "bands": list(EuroSAT.all_band_names)})

    with pytest.raises(UserError, match=r"name its 13 bands, got none; give a contract of your own \(preprocessing=\)"):
        derive_contract(ResNet50_Weights.SENTINEL2_ALL_MOCO)
    with pytest.raises(UserError, match=r"origin is known here.*state sensor, quantity, bands and normalisation"):
        derive_contract(ResNet50_Weights.MARS)


def test_documented_table_is_the_one_in_use(project_root: Path) -> None:
    # The document has TorchGeo 0.10's members; an older one has some of them, in the same order.
    rows = [line for line in tabulate_weights().splitlines() if line and not line.startswith("|--")]
    documented = (project_root / "docs" / "foreign-encoders.md").read_text().splitlines()
    assert [line for line in documented if line in rows] == rows
