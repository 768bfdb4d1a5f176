"""What an encoder is told of its input: the metadata of an image, of the kinds that its contract takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.image_metadata import COLUMNS, WIDTH, list_columns
from eo_ssl.preprocessing.contract import Preprocessing


def describe_input(
    contract: Preprocessing, metadata: npt.NDArray[np.float32] | Tensor | None, *, side_px: int
) -> dict[str, Tensor]:
    """What an encoder takes beside its input: `metadata` of the kinds in its contract; nothing where it takes none.

    Those of what the contract makes of the images, [n, 5] float32, NaN where unknown or not taken: an image that is
    interpolated to another size has pixels of another size on the ground.

    Args:
        contract: of the encoder.
        metadata: [n, 5] float32, of the images as they are given (`image_metadata`); None for nothing known.
        side_px: side of the images as they are given.

    Raises:
        UserError: another shape.
    """
    if metadata is None or not contract.metadata:
        return {}
    known = torch.as_tensor(metadata, dtype=torch.float32)
    expect(
        known.ndim == 2 and known.shape[1] == WIDTH,
        expected=f"metadata [n, {WIDTH}] of images",
        got=tuple(known.shape),
        remedy="make it with make_metadata",
    )
    columns = list_columns(contract.metadata)
    told = torch.full_like(known, torch.nan)
    told[:, columns] = known[:, columns]
    return {"metadata": scale_gsd(told, side_px / contract.size_px) if contract.resize == "to_size" else told}


def scale_gsd(metadata: Tensor, factor: Tensor | float) -> Tensor:
    """The metadata [n, 5] of images whose pixels are `factor` ([n], or one for all) times as large on the ground."""
    scaled = metadata.clone()
    scaled[:, COLUMNS["gsd"][0]] *= factor
    return scaled
