"""Feature maps of an encoder at four depths, with gradients, whatever the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from eo_ssl.encoder import Encoder, ExternalEncoder, TrainedEncoder
from eo_ssl.errors import UserError

DEPTHS = 4  # a decoder takes maps of four depths (Xiao et al. 2018, UPerNet; Ranftl et al. 2021, DPT)


@dataclass(frozen=True, slots=True)
class Maps:
    """Feature maps of a batch, and the tokens beside them."""

    maps: tuple[Tensor, ...]
    "[B, D, h, w] float32 each, from shallow to deep"
    prefix: tuple[Tensor | None, ...]
    "[B, P, D] class and register tokens beside each map, None where the network has none"


def prepare_network_input(encoder: Encoder, x: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what a network gets of the contract's output [B, C, H, W] and its validity, and options beside it.

    That is zeros for channels without a band, and marks of what is invalid where the network leaves it out.
    """
    if isinstance(encoder, TrainedEncoder):
        return encoder.backbone.mark_input(x, valid)
    return (encoder.seen(x) if isinstance(encoder, ExternalEncoder) else x), {}


def compute_last_map(model: nn.Module, x: Tensor, **options: Any) -> Maps:
    """Return the deepest map alone, after the network's last norm: a transformer's patch tokens on their grid."""
    network: Any = model
    (found,) = network.forward_intermediates(x, indices=1, norm=True, intermediates_only=True, **options)
    return Maps((found,), (None,))


def compute_four_maps(model: nn.Module, x: Tensor, **options: Any) -> Maps:
    """Return the maps at four depths: of evenly spaced blocks where all have one size, else of the last four stages.

    Of twelve blocks these are the outputs of the 3rd, 6th, 9th and 12th; a transformer of fewer than four blocks gives
    some twice.
    """
    network: Any = model
    reductions = _reductions(model)
    depth = len(reductions)
    even = [-(-depth * (number + 1) // DEPTHS) - 1 for number in range(DEPTHS)]
    taken = even if len(set(reductions)) == 1 else list(range(depth - DEPTHS, depth))
    kept = sorted(set(taken))
    prefixed = getattr(network, "num_prefix_tokens", 0) > 0
    options |= {"return_prefix_tokens": True} if prefixed else {}
    found = network.forward_intermediates(x, indices=kept, intermediates_only=True, **options)
    by_depth = dict(zip(kept, found, strict=True))
    pairs = [by_depth[number] if prefixed else (by_depth[number], None) for number in taken]
    return Maps(tuple(one for one, _ in pairs), tuple(prefix for _, prefix in pairs))


def check_maps(encoder: Encoder, model: nn.Module) -> None:
    """Refuse a network that does not give its maps, or only those of a part of the image.

    Raises:
        UserError: no `forward_intermediates`, fewer than four stages, or a central window.
    """
    reductions = _reductions(model)
    if not hasattr(model, "forward_intermediates") or not (len(set(reductions)) == 1 or len(reductions) >= DEPTHS):
        raise UserError(
            f"expected a timm network with maps at {DEPTHS} depths for a segmentation, got {encoder.name} "
            f"({type(model).__name__}); give a vision transformer or a residual network"
        )
    if isinstance(encoder, ExternalEncoder) and encoder.readout.window_px is not None:
        raise UserError(
            f"expected an encoder that sees whole images for a segmentation, got {encoder.name}, which sees the "
            f"central {encoder.readout.window_px} px; take `at_size({encoder.readout.window_px})` of it"
        )


def _reductions(model: nn.Module) -> list[int]:
    """Pixels per position of each map that a network has, from shallow to deep."""
    return [int(stage["reduction"]) for stage in getattr(model, "feature_info", None) or ()]
