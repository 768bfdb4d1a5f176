"""An encoder that was trained here: any backbone behind its preprocessing contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from eo_ssl.encoder.adapters import get_patch_px
from eo_ssl.encoder.protocol import EncoderBase, check_multiple, hash_tensors, resize_contract
from eo_ssl.errors import expect
from eo_ssl.models import Backbone, BackboneConfig, Tokens, View
from eo_ssl.preprocessing import Preprocessing


class TrainedEncoder(EncoderBase):
    """A backbone with its contract; features are its pooled vectors, tokens its patches."""

    backbone: Backbone
    "what encodes; its network is `model`"
    model: nn.Module
    "the network: timm's, or our own"

    def __init__(
        self,
        backbone: Backbone,
        preprocessing: Preprocessing,
        *,
        name: str = "encoder",
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name, preprocessing, provenance or {})
        check_fit(backbone.config, preprocessing)
        self._set_backbone(backbone)
        self.eval()

    def _set_backbone(self, backbone: Backbone) -> None:
        """Take over the weights, named ``model.*`` as timm has them: the backbone itself is not registered."""
        object.__setattr__(self, "backbone", backbone)
        self.model = backbone.network

    @property
    def architecture(self) -> BackboneConfig:
        """What rebuilds the network without its weights."""
        return self.backbone.config

    @property
    def pooling(self) -> str:
        """How its positions become one vector: `mean`, `cls` or `avg`."""
        return self.architecture.model.pooling

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self.backbone.dim

    @property
    def fingerprint(self) -> str:
        """Sha256 over weights, architecture, pooling and contract."""
        return hash_tensors(self.model.state_dict(), describe_identity(self.architecture, self.preprocessing))

    def features(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """Pooled vectors: [B, C, H, W] -> [B, D]; missing pixels are the band's mean, or left out, as in training."""
        return self._encode(x, valid).pooled

    def tokens(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """Patch tokens, or positions of the last map, row by row: [B, C, H, W] -> [B, N, D]."""
        return self._encode(x, valid).patches

    def encode(self, x: Tensor, *, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`features` and `tokens` in one pass."""
        tokens = self._encode(x, valid)
        return tokens.pooled, tokens.patches

    def at_size(self, size_px: int) -> Self:
        """Return this encoder for images of another side, position codes interpolated as `Backbone.at_size` says.

        Raises:
            UserError: a size that is no multiple of the patch; the nearest ones are named.
        """
        patch_px = get_patch_px(self.model)
        if patch_px is not None:
            check_multiple(size_px, patch_px=patch_px, name=self.name)
        twin = self._with_contract(resize_contract(self.preprocessing, size_px))
        twin._set_backbone(self.backbone.at_size(size_px).eval())
        return twin

    def _check_size(self, contract: Preprocessing) -> None:
        size_px = self.architecture.size_px
        expect(
            contract.resize == "native" or contract.size_px == size_px,
            expected=f"a contract of {size_px} px for {self.name}",
            got=f"{contract.size_px} px",
            remedy=f"take `at_size({contract.size_px})` of the encoder first",
        )

    def make_view(self, x: Tensor, valid: Tensor | None) -> View:
        """Images that its contract prepared, [B, C, H, W], as its network is shown them; `valid` None for everywhere.

        Raises:
            UserError: another number of bands or another size, or no output of the contract.
        """
        bands, side = self.architecture.bands, None if get_patch_px(self.model) is None else self.architecture.size_px
        sides = "H, W" if side is None else f"{side}, {side}"
        expect(
            x.ndim == 4 and x.shape[1] == len(bands) and (side is None or tuple(x.shape[2:]) == (side, side)),
            expected=f"input [B, {len(bands)}, {sides}] for {self.name}",
            got=tuple(x.shape),
            remedy="pass the output of its preprocessing, with resize = to_size or crop for images of another size",
        )
        self.check_prepared(x)
        if valid is None:
            valid = torch.ones((), dtype=torch.bool, device=x.device).expand(x.shape)
        return View(x, valid, bands)

    def _encode(self, x: Tensor, valid: Tensor | None) -> Tokens:
        # x is filled already, for networks that do not ask what is valid
        tokens: Tokens = self.backbone(self.make_view(x, valid if self.backbone.reads_valid else None))
        return tokens


def check_fit(config: BackboneConfig, preprocessing: Preprocessing) -> None:
    """Refuse a network for other bands or another size than the contract gives."""
    size_px = config.size_px if preprocessing.resize == "native" else preprocessing.size_px
    expect(
        (config.bands, config.size_px) == (preprocessing.bands, size_px),
        expected=f"a network for the contract's bands {', '.join(preprocessing.bands)} and {size_px} px",
        got=f"one for {', '.join(config.bands)} and {config.size_px} px",
        remedy="match them",
    )


def describe_identity(config: BackboneConfig, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return everything but the weights that makes two encoders the same."""
    return {
        "architecture": config.to_json(),
        "pooling": config.model.pooling,
        "preprocessing": preprocessing.to_json(),
    }
