"""What an encoder is to everything that uses one, and what ours have in common."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from eo_ssl.errors import UserError
from eo_ssl.manifest import fingerprint
from eo_ssl.preprocessing import Preprocessing


@runtime_checkable
class Encoder(Protocol):
    """What evaluation asks of an encoder; x is always the output of its own ``preprocessing``."""

    @property
    def preprocessing(self) -> Preprocessing: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dim(self) -> int: ...  # noqa: D102
    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def provenance(self) -> Mapping[str, Any]: ...  # noqa: D102
    def features(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """[B, C, H, W] float32 -> one vector per image, [B, D] float32.

        ``valid`` [B, C, H, W] bool comes from the contract too and says where x was measured; None for everywhere. Elsewhere x holds
        the band's mean, which is what a network was trained on and what a statistic must leave out.
        """
        ...

    def tokens(self, x: Tensor) -> Tensor:
        """[B, C, H, W] float32 -> one vector per position, [B, N, D] float32, row by row."""
        ...

    def at_size(self, size_px: int) -> Encoder:
        """Return the same weights for images brought to another side; the size it has already gives the same bits."""
        ...

    def with_preprocessing(self, contract: Preprocessing) -> Encoder:
        """Return the same weights behind another contract that fits them: another normalisation, policy or resizing."""
        ...


class Frozen(nn.Module):
    """Name, contract and origin, common to our encoders; made in evaluation mode."""

    def __init__(self, name: str, preprocessing: Preprocessing, provenance: Mapping[str, Any]) -> None:
        super().__init__()
        self.name = name
        self.preprocessing = preprocessing
        self.provenance: Mapping[str, Any] = dict(provenance)

    @property
    def fingerprint(self) -> str:
        """Sha256 over weights and contract; provenance and the order of the file do not enter."""
        return content(
            self.state_dict(), {"encoder": type(self).__name__, "preprocessing": self.preprocessing.to_json()}
        )

    def at_size(self, size_px: int) -> Self:
        """Return this encoder for images brought to ``size_px``; its weights know no size, so they are shared.

        Raises:
            UserError: less than one pixel.
        """
        contract = resized(self.preprocessing, size_px)
        self._check_size(contract)
        return self._behind(contract)

    def with_preprocessing(self, contract: Preprocessing) -> Self:
        """Return this encoder behind ``contract``, weights shared.

        Raises:
            UserError: other bands, or another order of them, than the weights were made for; a size that they do not take.
        """
        if contract.bands != self.preprocessing.bands:
            raise UserError(
                f"expected a contract with the bands {', '.join(self.preprocessing.bands)} of {self.name} in this order, "
                f"got {', '.join(contract.bands)}; weights belong to bands, so change the contract's other fields only"
            )
        self._check_size(contract)
        return self._behind(contract)

    def _check_size(self, contract: Preprocessing) -> None:
        """Refuse a size that the weights do not take; these take any."""

    def _behind(self, contract: Preprocessing) -> Self:
        """A twin that shares all weights; registries of parts are copied so that a part can be exchanged in the twin alone."""
        twin = copy.copy(self)
        for registry in ("_modules", "_buffers", "_parameters"):
            twin.__dict__[registry] = dict(self.__dict__[registry])
        twin.preprocessing = contract
        return twin


def resized(contract: Preprocessing, size_px: int) -> Preprocessing:
    """Return ``contract`` with images interpolated to ``size_px``."""
    if size_px < 1:
        raise UserError(f"expected a size of at least 1 px, got {size_px}; give a positive number")
    return dataclasses.replace(contract, size_px=size_px, resize="to_size")


def check_multiple(size_px: int, *, patch_px: int, name: str) -> None:
    """Refuse a side that patches of ``patch_px`` do not tile, naming the nearest ones that they do."""
    if size_px < 1 or size_px % patch_px:
        below = size_px // patch_px * patch_px
        near = " or ".join(str(side) for side in (below, below + patch_px) if side > 0)
        raise UserError(
            f"expected a size that is a multiple of the patch of {patch_px} px of {name}, got {size_px} px; choose {near}"
        )


def content(tensors: Mapping[str, Tensor], identity: Mapping[str, Any]) -> str:
    """Fingerprint of named tensors (name, dtype, shape, bytes) together with plain values."""
    rows = []
    for key in sorted(tensors):
        values = tensors[key].detach().cpu().contiguous()
        digest = hashlib.sha256(values.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        rows.append([key, str(values.dtype), list(values.shape), digest])
    return fingerprint({"tensors": rows, "identity": dict(identity)})
