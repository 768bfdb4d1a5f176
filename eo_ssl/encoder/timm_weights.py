"""Any model of timm as an encoder, behind a contract that is given, never a silent ImageNet one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm

from eo_ssl.encoder.adapters import get_input_px, resize_input
from eo_ssl.encoder.external import ExternalEncoder, Readout
from eo_ssl.encoder.rgb_contract import make_rgb_contract
from eo_ssl.encoder.specs import ExternalSpec
from eo_ssl.errors import UserError, suggest_nearest
from eo_ssl.models import seed_weights
from eo_ssl.preprocessing import Interpolation, Preprocessing

_KERNELS: dict[str, Interpolation] = {"bilinear": "bilinear", "bicubic": "bicubic"}
_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")


def load_timm(spec: ExternalSpec, *, preprocessing: Preprocessing | None = None, seed: int = 0) -> ExternalEncoder:
    """Return timm's model ``spec.name`` behind ``preprocessing``, or its photographic contract where the spec says so.

    Weights of three colours are brought to other channels as timm does it, repeated and rescaled: a start for
    training rather than an
    encoder, and said in the provenance.

    Args:
        spec: of the route timm; `?contract=imagenet` takes the mean, standard deviation, size and interpolation of
            the weights' own
            configuration for red, green and blue.
        preprocessing: contract; as many bands as the network gets channels.
        seed: of random weights.

    Raises:
        UserError: no such model, no contract or two, weights that are not there.
    """
    base = spec.name.partition(".")[0]
    known = timm.list_models()
    if base not in known:
        raise UserError(
            f"expected a model of timm, got {spec.name!r}{suggest_nearest(base, known)}; timm.list_models() names them"
        )
    contract = _contract(spec, preprocessing)
    origin: dict[str, Any] = {"source": spec.text, "contract": spec.options.get("contract", "given by the caller")}
    if spec.random:
        with seed_weights(seed):
            model = timm.create_model(spec.name, pretrained=False, in_chans=len(contract.bands), num_classes=0)
        origin |= {"weights": "random", "seed": seed}
    else:
        model, where = _trained(spec, channels=len(contract.bands))
        origin |= {"weights": where, "licence": model.pretrained_cfg.get("license")}
        if len(contract.bands) != model.pretrained_cfg.get("input_size", (3,))[0]:
            origin["first_layer"] = "repeated over the bands and rescaled (timm)"
    if contract.resize != "native" and get_input_px(model) not in (None, contract.size_px):
        model = resize_input(model, contract.size_px, name=spec.text)
    pooling: Any = spec.options.get("pooling", "own")
    return ExternalEncoder(
        model, contract, name=spec.text, readout=Readout(spec.name, pooling=pooling), provenance=origin
    )


def _contract(spec: ExternalSpec, preprocessing: Preprocessing | None) -> Preprocessing:
    named = spec.options.get("contract")
    if preprocessing is not None:
        if named is not None:
            raise UserError(f"expected one contract for {spec.text}, got one and contract={named}; leave out either")
        return preprocessing
    if named is None:
        raise UserError(
            f"expected a preprocessing contract for {spec.text}, got none; give one (preprocessing=), "
            "name its own for red, green and blue by ?contract=imagenet, or that of a task's training images by"
            " ?contract=training"
        )
    if named != "imagenet":
        raise UserError(
            f"expected contract=imagenet for {spec.text}, got {named!r}; it stands for the statistics of its own"
            " training"
        )
    own = timm.get_pretrained_cfg(spec.name)
    if own is None or own.interpolation not in _KERNELS or own.input_size[0] != len(own.mean) or own.input_size[0] != 3:
        raise UserError(
            f"expected a configuration of {spec.text} for three colours, got none; give a contract (preprocessing=)"
        )
    return make_rgb_contract(
        spec,
        mean=tuple(own.mean),
        std=tuple(own.std),
        size_px=own.input_size[-1],
        interpolation=_KERNELS[own.interpolation],
    )


def _trained(spec: ExternalSpec, *, channels: int) -> tuple[Any, str]:
    """Model with trained weights from a file, timm's cache or, where allowed, the network; and where they were."""
    overlay: dict[str, Any] | None = None
    given = spec.options.get("file")
    where = str(spec.name)
    if given is not None:
        if not Path(given).is_file():
            raise UserError(
                f"expected the weights of {spec.text} in {given}, got no such file; correct the option file"
            )
        overlay, where = {"file": given}, Path(given).name
    elif "download" not in spec.options:
        overlay = {"file": str(_cached(spec))}
    try:
        model = timm.create_model(
            spec.name, pretrained=True, in_chans=channels, num_classes=0, pretrained_cfg_overlay=overlay
        )
    except Exception as error:  # whatever the file's bytes or the network lead the libraries to
        raise UserError(
            f"expected weights of {spec.text} in {where}, got {type(error).__name__}:"
            f" {str(error).strip().splitlines()[-1][:120]}; "
            "give a file of this model"
        ) from error
    return model, where


def _cached(spec: ExternalSpec) -> Path:
    """File of the weights in the local cache of the model hub."""
    from huggingface_hub import constants, try_to_load_from_cache

    own = timm.get_pretrained_cfg(spec.name)
    if own is None or not own.hf_hub_id:
        raise UserError(
            f"expected a model of timm with published weights, got {spec.name}; add @random for random weights, or"
            " give ?file=PATH"
        )
    hub = own.hf_hub_id
    repository = f"{hub}{own.architecture}.{own.tag}" if hub.endswith("/") else hub
    names = [own.hf_hub_filename] if own.hf_hub_filename else list(_FILES)
    for name in names:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return Path(path)
    raise UserError(
        f"expected the weights of {spec.text} as {names[0]} of {repository} in {constants.HF_HUB_CACHE}, got no such"
        " file; "
        "give it by the option ?file=PATH, or allow the download by ?download"
    )
