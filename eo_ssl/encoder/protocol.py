"""What an encoder is to everything that uses one, and what ours have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

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


def content(tensors: Mapping[str, Tensor], identity: Mapping[str, Any]) -> str:
    """Fingerprint of named tensors (name, dtype, shape, bytes) together with plain values."""
    rows = []
    for key in sorted(tensors):
        values = tensors[key].detach().cpu().contiguous()
        digest = hashlib.sha256(values.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
        rows.append([key, str(values.dtype), list(values.shape), digest])
    return fingerprint({"tensors": rows, "identity": dict(identity)})
