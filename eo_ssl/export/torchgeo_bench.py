"""The encoder of a bundle as a model of torchgeo-bench (Python 3.12 or later); needs no other file of this library.

The file stands in a bundle's ``bench/`` with the Hydra configuration beside it. The benchmark hands over stored
numbers and, for
each channel, a ``BandSpec``: sensor, name and statistics. Channels are taken by name, stored numbers become the
contract's quantity by
``scale`` and ``offset``, both said by the user and compared with the statistics, and the contract does the rest,
resizing included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torchgeo_bench.models.interface import BenchModel

from eo_ssl.export.standalone import make_transforms, read_contract

SENSORS = {"sentinel2": ("s2",), "sentinel1": ("s1", "sar")}
"Beginning of a contract's sensor -> sensors of the benchmark's bands."
NAMES = {
    "coastal_aerosol": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "red_edge_1": "B05",
    "red_edge_2": "B06",
    "red_edge_3": "B07",
    "nir": "B08",
    "red_edge_4": "B8A",
    "water_vapour": "B09",
    "swir_cirrus": "B10",
    "swir_1": "B11",
    "swir_2": "B12",
}
"Names of Sentinel-2 bands in the benchmark that are no band codes."
MISNAMED: dict[tuple[str, float], str | None] = {
    # m-eurosat: files of B01-B08, B09-B12, B8A under names in the sensor's order (geo-bench, issue 28).
    ("red_edge_4", 751.164): "B09",
    ("water_vapour", 12.2881): "B10",
    ("swir_cirrus", 1848.9): "B11",
    ("swir_1", 1131.27): "B12",
    ("swir_2", 2665.44): "B8A",
    # m-brick-kiln: B01-B05, B07, B8A, B08, B11, B12 and an 8-bit RGB image under 13 names (geo-bench, issue 29).
    ("red_edge_2", 1960.74): "B07",
    ("red_edge_3", 2075.83): "B8A",
    ("nir", 2039.48): "B08",
    ("red_edge_4", 1625.46): "B11",
    ("water_vapour", 1135.59): "B12",
    ("swir_cirrus", 82.471): None,
    ("swir_1", 89.8659): None,
    ("swir_2", 68.4528): None,
}
"Name and mean of a band that the benchmark (0.4.0) names wrongly -> the band it is; None for an image that is no band."
DARK = 0.05
"Reflectance that the brightest pixel of a data set exceeds; below it, reflectance was divided once more."


class BundleEncoder(BenchModel):  # type: ignore[misc]
    """A frozen encoder that gives torchgeo-bench its features [B, D].

    Args:
        bands: the benchmark's ``BandSpec`` of each channel.
        quantity: what ``(stored + offset) * scale`` is, such as ``toa_reflectance``; must be the contract's.
        scale: of stored numbers, such as 1e-4 for reflectance stored as whole numbers, 1 for physical values.
        offset: added to stored numbers before, such as -1000 for files of processing baseline 04.00 and later.
        image_size: ``dataset.image_size`` of the benchmark, which must be null: the contract resizes.
        normalization: ``dataset.normalization`` of the benchmark, which must be ``model_native``, the contract.
        size_px: input side of the encoder, positions resampled; None for the size of training.
        rename: name in the benchmark -> band, where the benchmark's names are wrong.
        missing: ``refuse``, or ``mean`` to give bands that the data set lacks their mean.

    Raises:
        ValueError: bands, units, sizes or statistics that do not fit the contract; the message says what to change.
    """

    def __init__(
        self,
        bands: Sequence[Any],
        quantity: str,
        scale: float,
        offset: float,
        image_size: int | None,
        normalization: str,
        size_px: int | None = None,
        rename: Mapping[str, str] | None = None,
        missing: str = "refuse",
        **_: Any,
    ) -> None:
        super().__init__(bands=list(bands), normalization="identity")
        bundle = Path(__file__).resolve().parents[1]
        contract = read_contract(bundle, "native")
        check_settings(contract, quantity=quantity, image_size=image_size, normalization=normalization)
        indices = match_channels(bands, contract, rename=rename or {}, missing=missing)
        by_name = {name: bands[i] for name, i in zip(contract["bands"], indices, strict=True) if i is not None}
        check_statistics(by_name, contract, scale=scale, offset=offset)
        self.scale, self.offset, self.channels = float(scale), float(offset), indices
        network: Any = timm.create_model(f"local-dir:{bundle / 'timm'}", pretrained=True)
        if size_px is not None and hasattr(network, "set_input_size"):  # a residual network takes any size
            network.set_input_size(img_size=(size_px, size_px))
        self.backbone = network
        if size_px is not None and size_px != contract["size_px"]:
            contract = {**contract, "size_px": size_px, "resize": "to_size"}
        self.transforms = make_transforms(contract)

    def normalize_inputs(self, images: Tensor) -> Tensor:
        """Stored numbers [B, channels of the data set, H, W] -> the encoder's input [B, C, S, S]."""
        nothing = torch.full_like(images[:, 0], torch.nan)
        stored = torch.stack([nothing if i is None else images[:, i] for i in self.channels], dim=1).float()
        ready: Tensor = self.transforms((stored + self.offset) * self.scale)
        return ready

    def _forward_patch_features(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        return features


def check_settings(contract: Mapping[str, Any], *, quantity: str, image_size: int | None, normalization: str) -> None:
    """Refuse another quantity, and what the benchmark would do to images besides the contract."""
    if quantity != contract["quantity"]:
        raise ValueError(
            f"expected {contract['quantity']}, got {quantity}; the encoder was trained on another quantity, take one"
            f" trained on {quantity}"
        )
    if normalization != "model_native":
        raise ValueError(
            f"expected the contract, got {normalization} for the results' column; set"
            " dataset.normalization=model_native"
        )
    if image_size is not None:
        raise ValueError(
            f"expected images as they are stored, got them resized to {image_size} px; set dataset.image_size=null, "
            "and model.size_px for another input size of the encoder"
        )


def match_channels(
    bands: Sequence[Any], contract: Mapping[str, Any], *, rename: Mapping[str, str], missing: str
) -> list[int | None]:
    """Return the channel of each band of the contract, in its order; None for one that takes its mean."""
    if missing not in ("refuse", "mean"):
        raise ValueError(f"expected missing out of refuse, mean, got {missing!r}; set one of them")
    allowed = next((names for start, names in SENSORS.items() if contract["sensor"].startswith(start)), ())
    if not allowed:
        raise ValueError(
            f"expected an encoder of Sentinel-1 or Sentinel-2, got one of {contract['sensor']}; the benchmark has no"
            " such sensor"
        )
    known: dict[str, int] = {}
    for channel, band in enumerate(bands):
        name = rename.get(band.name) or MISNAMED.get((band.name, band.mean), NAMES.get(band.name, band.name.upper()))
        if band.sensor in allowed and name is not None and known.setdefault(name, channel) != channel:
            raise ValueError(f"expected one channel of {name}, got several; set model.rename={{{band.name}: BAND}}")
    lacking = [name for name in contract["bands"] if name not in known]
    if len(lacking) == len(contract["bands"]) or (lacking and missing == "refuse"):
        raise ValueError(
            f"expected {', '.join(contract['bands'])}, got {', '.join(known) or 'no band'} of {' or '.join(allowed)},"
            " without "
            f"{', '.join(lacking)}; set dataset.bands=all, or model.missing=mean where the data set has no more"
        )
    return [known.get(name) for name in contract["bands"]]


def check_statistics(bands: Mapping[str, Any], contract: Mapping[str, Any], *, scale: float, offset: float) -> None:
    """Refuse a scale or offset that the benchmark's own statistics contradict, and polarisations that are swapped."""
    means = {name: (band.mean + offset) * scale for name, band in bands.items()}
    low, high = contract["range"]
    reflectance = contract["quantity"].endswith("reflectance")
    low = max(low, 0.0) if reflectance else low
    for name, mean in means.items():
        if not low <= mean <= high:
            raise ValueError(
                f"expected {contract['quantity']} between {low:g} and {high:g}, got a mean of {mean:g} in {name}; "
                "correct model.scale and model.offset"
            )
    brightest = max((band.max + offset) * scale for band in bands.values())
    if reflectance and brightest < DARK:
        raise ValueError(
            f"expected reflectance, got {brightest:g} in the brightest pixel; the data are reflectance already, set"
            " model.scale=1"
        )
    if "VV" in means and "VH" in means and means["VV"] < means["VH"]:
        raise ValueError(
            f"expected VV stronger than VH, got {means['VV']:g} and {means['VH']:g}; the two are swapped in the data"
            " or in the benchmark's "
            "statistics: look, and set model.rename={vv: VH, vh: VV} where it is the data"
        )
