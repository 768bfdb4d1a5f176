"""RemoteCLIP's image tower as an encoder: OpenCLIP's keys in timm's models.

Liu et al. 2024, doi:10.1109/TGRS.2024.3390838.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models import byobnet, vision_transformer
from torch import Tensor

from eo_ssl.encoder.external import ExternalEncoder, Readout
from eo_ssl.encoder.rgb_contract import make_rgb_contract
from eo_ssl.encoder.specs import ExternalSpec
from eo_ssl.encoder.torchgeo_weights import read_tensors
from eo_ssl.errors import UserError
from eo_ssl.models import seed_weights
from eo_ssl.preprocessing import Preprocessing

TOWERS = {
    "ViT-B-32": ("vit_base_patch32_clip_224", 512),
    "ViT-L-14": ("vit_large_patch14_clip_224", 768),
    "RN50": ("resnet50_clip", 1024),
}
"""Released towers by OpenCLIP's name: the same architecture in timm, and the length of the projected vector."""
_PATCH_TO_TOWER = {32: "ViT-B-32", 14: "ViT-L-14"}
_SIZE = 224  # px; bicubic, as OpenCLIP prepares images for all three towers


def load_remoteclip(
    spec: ExternalSpec, *, preprocessing: Preprocessing | None = None, seed: int = 0
) -> ExternalEncoder:
    """Return RemoteCLIP's image tower; its vector is the one that CLIP compares with text, not scaled to unit length.

    Args:
        spec: of the route remoteclip; its name is the file, or one of `TOWERS` with ``@random``.
        preprocessing: a contract for three bands of one's own; None for CLIP's, on 8-bit colour images unless the
            spec names a sensor.
        seed: of random weights.

    Raises:
        UserError: no such file or tower, keys of another model, a contract for other than three bands.
    """
    if spec.random:
        if spec.name not in TOWERS:
            raise UserError(f"expected a tower out of {', '.join(TOWERS)} before @random, got {spec.name!r}; name one")
        tower, state = spec.name, None
    else:
        file = Path(spec.name)
        if not file.is_file():
            raise UserError(
                f"expected a file of RemoteCLIP's weights, got no {file}; its authors publish RemoteCLIP-ViT-B-32.pt"
                " and others, fetch one"
            )
        state = _visual(read_tensors(file), file)
        tower = _tower(state, file)
    contract = preprocessing or make_rgb_contract(
        spec, mean=OPENAI_CLIP_MEAN, std=OPENAI_CLIP_STD, size_px=_SIZE, interpolation="bicubic"
    )
    if len(contract.bands) != 3:
        raise UserError(
            f"expected a contract for red, green and blue for {spec.text}, got {len(contract.bands)} bands; choose"
            " three"
        )
    architecture, dim = TOWERS[tower]
    with seed_weights(seed):
        model: Any = timm.create_model(architecture, pretrained=False, num_classes=dim)
    origin: dict[str, Any] = {"source": f"RemoteCLIP {tower}", "publication": "https://arxiv.org/abs/2306.11029"}
    if state is None:
        origin |= {"weights": "random", "seed": seed}
    else:
        _load(model, state, Path(spec.name))
        origin["weights"] = Path(spec.name).name
    name = spec.text if spec.random else f"remoteclip:{Path(spec.name).stem}"
    pooling: Any = spec.options.get("pooling", "own")
    return ExternalEncoder(
        model, contract, name=name, readout=Readout(architecture, pooling=pooling), provenance=origin
    )


def _visual(read: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """Tensors of the image tower under ``visual.``; the text tower stays aside."""
    state = read.get("state_dict", read)
    bare = (
        {str(key).removeprefix("module."): value for key, value in state.items()} if isinstance(state, Mapping) else {}
    )
    tower = {key: value for key, value in bare.items() if key.startswith("visual.") and isinstance(value, Tensor)}
    if not tower:
        raise UserError(
            f"expected keys that begin with visual. in {file}, got {', '.join(list(bare)[:3]) or 'none'}; give the"
            " state dict of an OpenCLIP model"
        )
    return tower


def _tower(state: Mapping[str, Tensor], file: Path) -> str:
    """Which tower the tensors are of."""
    first = state.get("visual.conv1.weight")
    if "visual.class_embedding" in state and first is not None and first.shape[-1] in _PATCH_TO_TOWER:
        return _PATCH_TO_TOWER[first.shape[-1]]
    if "visual.layer1.0.conv1.weight" in state:
        return "RN50"
    raise UserError(
        f"expected an image tower out of {', '.join(TOWERS)} in {file}, got another; these three are published"
    )


def _load(model: Any, state: dict[str, Tensor], file: Path) -> None:
    converter: Any = vision_transformer if isinstance(model, vision_transformer.VisionTransformer) else byobnet
    try:
        model.load_state_dict(converter.checkpoint_filter_fn(state, model))
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"expected the complete image tower of OpenCLIP in {file}, got"
            f" {str(error).splitlines()[-1].strip()[:120]}; fetch the file again"
        ) from error
