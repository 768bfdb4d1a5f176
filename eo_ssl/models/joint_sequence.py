"""Patches of two sensors as one sequence of tokens through one transformer (Bachmann et al. 2022, arXiv 2204.01678).

Each sensor has a patch projection of its own, whose bias is its learned code: added to every patch of that sensor and
to no other, it tells them apart, and a code beside it would be added to the same tokens. The authors' input_adapters.py
has none either, and their multimae2vit_converter.py makes a plain transformer of one projection and the shared blocks:
that is the encoder of one sensor here. Both share all that stands behind the projection, position codes included:
patches of one place have one position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.models.attention import find_gaps
from eo_ssl.models.backbone import MaskableBackbone, Tokens, View
from eo_ssl.models.fusion import SensorFusion
from eo_ssl.models.patches import take_patches
from eo_ssl.models.relative_attention import PlacedBlock
from eo_ssl.models.spectral_vit import SpectralVitBackbone
from eo_ssl.models.vit import VitBackbone

OWN = "patch_embed"
"""What each encoder keeps of its network."""


class JointSequence(SensorFusion):
    """One vector of two sensors: what the transformer that both share makes of the patches of both together.

    A patch without a valid pixel of one sensor is no token of that sensor; without any, it is the other sensor's alone.
    """

    kind = "sequence"
    format = 2

    def __init__(self) -> None:
        """It has no weights of its own."""
        super().__init__()
        self.sizes = {}

    def join_encoders(self, encoders: Sequence[MaskableBackbone]) -> None:
        """Let both run one transformer, which they must have already."""
        first, second = encoders
        trunks = [
            {name: values for name, values in one.network.state_dict().items() if not name.startswith(OWN)}
            for one in (first, second)
        ]
        expect(
            trunks[0].keys() == trunks[1].keys()
            and all(torch.equal(values, trunks[1][name]) for name, values in trunks[0].items()),
            expected="encoders of two sensors with one transformer",
            got="two",
            remedy="name the folder as `eo-ssl pretrain --objective MultiMae` wrote it",
        )
        unite_trunks(first, second)

    def pool(self, encoders: Sequence[MaskableBackbone], views: Sequence[View]) -> Tensor:
        """The mean of the tokens of both, or the class token."""
        return encode_together(cast(Sequence[VitBackbone], encoders), views).pooled


def unite_trunks(first: MaskableBackbone, second: MaskableBackbone) -> None:
    """Let `second` run all of the network of `first`, weights and all, but its patch projection, which it keeps.

    Raises:
        UserError: networks that cannot be one, or whose blocks ask where patches lie to each other.
    """
    for encoder in (first, second):
        expect(
            isinstance(encoder, VitBackbone)
            and not isinstance(encoder, SpectralVitBackbone)
            and not isinstance(cast(Any, encoder.network.blocks)[0], PlacedBlock),
            expected="transformers with position codes and one token for a patch, to make one of",
            got=encoder.config.model.variant,
            remedy="choose --model Vit or ChannelVit with position sincos or learned",
        )
    models = [encoder.config.model for encoder in (first, second)]
    expect(
        models[0] == models[1] and first.config.size_px == second.config.size_px,
        expected="encoders of one architecture and size, to make one of",
        got=f"{models[0]} at {first.config.size_px} px and {models[1]} at {second.config.size_px} px",
        remedy="train both with one --model on tiles of one size",
    )
    for name, part in first.network.named_children():
        if name != OWN:
            setattr(second.network, name, part)
    for name, values in first.network.named_parameters(recurse=False):
        setattr(second.network, name, values)


def encode_together(
    encoders: Sequence[VitBackbone],
    views: Sequence[View],
    *,
    keep: Tensor | None = None,
    shown: Tensor | None = None,
) -> Tokens:
    """Encode patches of several images of the same ground as one sequence through the transformer of the first encoder.

    Args:
        encoders: one for each view, after `unite_trunks`.
        views: with N patches each.
        keep: [B, T] int64, tokens that enter, i * N + n for patch n of view i; None for all.
        shown: [B, T] bool, those of `keep` that there are; all when left out.

    Returns:
        Tokens whose `patches` are those that were kept, [B, T, D], and whose mean is over those with a valid pixel.
    """
    pairs = [encoder.place_patches(view) for encoder, view in zip(encoders, views, strict=True)]
    tokens, seen = (torch.cat(parts, dim=1) for parts in zip(*pairs, strict=True))  # [B, V*N, D], [B, V*N]
    if keep is not None:
        tokens, seen = take_patches(tokens, keep), seen.gather(1, keep)
    if shown is not None:
        seen = seen & shown
    return encoders[0].encode_placed(tokens, find_gaps(seen))
