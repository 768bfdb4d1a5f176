"""From images as a network sees them back to the physical values that another contract starts from."""

from __future__ import annotations

import torch
from torch import Tensor

from eo_ssl.preprocessing.contract import Preprocessing
from eo_ssl.preprocessing.conversion import apply_conversion
from eo_ssl.sensors import Quantity


def invert_normalisation(image: Tensor, contract: Preprocessing) -> Tensor:
    """Values [B, C, H, W] in the contract's final quantity of images that it normalised."""
    mean, std = (image.new_tensor(values).view(1, -1, 1, 1) for values in (contract.mean, contract.std))
    return image * std + mean


def restore_values(image: Tensor, valid: Tensor, contract: Preprocessing, *, quantity: Quantity) -> Tensor:
    """Values in `quantity` of images that `contract` normalised: what it clipped stays clipped.

    Args:
        image: [B, C, H, W] float, normalised.
        valid: [B, C, H, W] bool.
        contract: of the C bands.
        quantity: that of the contract's output, or the power of its decibels, or the decibels of its power.

    Returns:
        [B, C, H, W], NaN where not valid.

    Raises:
        UserError: another quantity.
    """
    values = invert_normalisation(image, contract)
    if quantity != contract.final_quantity:
        values = apply_conversion(values, f"{contract.final_quantity.value}->{quantity.value}")
    return torch.where(valid, values, values.new_full((), torch.nan))
