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

from eo_ssl.encoder.adapters import resize_to_contract
from eo_ssl.encoder.external import ExternalEncoder, Readout
from eo_ssl.encoder.first_layer import fit_kernels
from eo_ssl.encoder.foreign_weights import list_prefixes, match_keys, put_tensors, read_tensors
from eo_ssl.encoder.rgb_contract import make_rgb_contract
from eo_ssl.encoder.specs import ExternalSpec, refuse_options
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
_FIRST = "visual.conv1.weight"
_SIZE = 224  # px; bicubic, as OpenCLIP prepares images for all three towers


def load_remoteclip(
    spec: ExternalSpec, *, preprocessing: Preprocessing | None = None, seed: int = 0
) -> ExternalEncoder:
    """Return RemoteCLIP's image tower; its vector is the one that CLIP compares with text, not scaled to unit length.

    Args:
        spec: of the route remoteclip; its name is the file, or one of `TOWERS` with ``@random``.
        preprocessing: a contract of one's own, for red, green and blue in any order; for other bands the option rgb
            says how the kernels reach them; None for CLIP's, on 8-bit colour images unless the
            spec names a sensor.
        seed: of random weights.

    Raises:
        UserError: no such file or tower, keys of another model, other bands than red, green and blue and no choice.
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
    if spec.random:
        refuse_options(spec, ("rgb",), reason="random weights come from no file")
    if preprocessing is not None:
        refuse_options(spec, ("sensor", "white"), reason="the contract is given")
    contract = preprocessing or make_rgb_contract(
        spec, mean=OPENAI_CLIP_MEAN, std=OPENAI_CLIP_STD, size_px=_SIZE, interpolation="bicubic"
    )
    architecture, dim = TOWERS[tower]
    with seed_weights(seed):
        model: Any = timm.create_model(architecture, pretrained=False, num_classes=dim, in_chans=len(contract.bands))
    model = resize_to_contract(model, contract, name=spec.text)
    origin: dict[str, Any] = {"source": f"RemoteCLIP {tower}", "publication": "https://arxiv.org/abs/2306.11029"}
    if state is None:
        origin |= {"weights": "random", "seed": seed}
    else:
        origin |= {"weights": Path(spec.name).name} | _load(spec, model, state, contract)
    name = spec.text if spec.random else f"remoteclip:{Path(spec.name).stem}"
    pooling: Any = spec.options.get("pooling", "own")
    return ExternalEncoder(
        model, contract, name=name, readout=Readout(architecture, pooling=pooling), provenance=origin
    )


def _visual(read: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Tensors of the image tower under ``visual.``; the text tower stays aside."""
    for prefix in list_prefixes(read):
        bare = {key.removeprefix(prefix): value for key, value in read.items() if key.startswith(f"{prefix}visual.")}
        if bare:
            return bare
    raise UserError(
        f"expected keys that begin with visual. in {file}, got {', '.join(list(read)[:3]) or 'none'}; give the"
        " state dict of an OpenCLIP model"
    )


def _tower(state: Mapping[str, Tensor], file: Path) -> str:
    """Which tower the tensors are of."""
    first = state.get(_FIRST)
    if "visual.class_embedding" in state and first is not None and first.shape[-1] in _PATCH_TO_TOWER:
        return _PATCH_TO_TOWER[first.shape[-1]]
    if "visual.layer1.0.conv1.weight" in state:
        return "RN50"
    raise UserError(
        f"expected an image tower out of {', '.join(TOWERS)} in {file}, got another; these three are published"
    )


def _load(spec: ExternalSpec, model: Any, state: dict[str, Tensor], contract: Preprocessing) -> dict[str, str]:
    """Put the tower into ``model``, its kernels on the bands of ``contract`` by name, and return what was done."""
    converter: Any = vision_transformer if isinstance(model, vision_transformer.VisionTransformer) else byobnet
    fitted = fit_kernels(state[_FIRST], contract, name=spec.text, spread=spec.options.get("rgb"), photographs=True)
    options: dict[str, Any] = {"name": spec.text, "where": spec.name, "remedy": "fetch the file again"}
    matched = match_keys(
        {**state, _FIRST: fitted.kernels}, model, keys="", convert=converter.checkpoint_filter_fn, **options
    )
    put_tensors(model, matched.tensors, **options)
    return {"first_layer": fitted.words} | ({"remark": fitted.remark} if fitted.remark else {})
