"""From a radar image as a network sees it back to its linear amplitude, which ratios of neighbours are taken of."""

from __future__ import annotations

import torch
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.preprocessing.contract import Preprocessing
from eo_ssl.preprocessing.physical_values import invert_normalisation
from eo_ssl.sensors import Quantity


def require_backscatter(contract: Preprocessing, *, method: str) -> None:
    """Refuse a stream whose values have no linear amplitude.

    Raises:
        UserError: a contract whose quantity is no backscatter power, dB or amplitude.
    """
    quantity = contract.final_quantity
    expect(
        quantity.is_power or quantity.is_db or quantity is Quantity.AMPLITUDE,
        expected=f"a radar stream for {method}: a power, dB or amplitude",
        got=f"{quantity.value} of {contract.sensor}",
        remedy="train on a radar stream, or choose MaskFeat",
    )


def compute_amplitude(image: Tensor, contract: Preprocessing) -> Tensor:
    """Linear amplitude of normalised radar images: sqrt(power), 10^(dB/20), or the amplitude itself.

    Args:
        image: [B, C, H, W] float, normalised by `contract`, of a backscatter quantity.
        contract: gives the quantity, and mean and standard deviation of each band.

    Returns:
        [B, C, H, W], at least 0: what noise removal, added noise or rounding left below is 0.
    """
    values = invert_normalisation(image, contract)
    if contract.final_quantity.is_db:
        return torch.pow(10.0, values / 20)
    values = values.clamp(min=0)
    return values.sqrt() if contract.final_quantity.is_power else values
