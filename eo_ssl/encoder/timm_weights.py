"""Any model of timm as an encoder, behind a contract that is given, never a silent ImageNet one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from eo_ssl.encoder.adapters import fit_grid, resize_to_contract
from eo_ssl.encoder.external import ExternalEncoder, Readout
from eo_ssl.encoder.first_layer import (
    COLOURS,
    find_first_layer,
    fit_kernels,
    locate_colours,
    order_as_sensor,
    order_first_layer,
)
from eo_ssl.encoder.foreign_weights import Convert, match_keys, put_tensors, read_tensors
from eo_ssl.encoder.rgb_contract import make_rgb_contract
from eo_ssl.encoder.specs import ExternalSpec, refuse_options
from eo_ssl.encoder.torchgeo_weights import find_hub_file
from eo_ssl.errors import UserError, suggest_nearest
from eo_ssl.fingerprints import hash_file
from eo_ssl.models import seed_weights
from eo_ssl.preprocessing import Interpolation, Preprocessing

_KERNELS: dict[str, Interpolation] = {"bilinear": "bilinear", "bicubic": "bicubic"}
_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors")
_REMEDY = "give a file of this model, or name what stands before its keys by the option keys"


def load_timm(spec: ExternalSpec, *, preprocessing: Preprocessing | None = None, seed: int = 0) -> ExternalEncoder:
    """Return timm's model ``spec.name`` behind ``preprocessing``, or its photographic contract where the spec says so.

    All tensors of the network come from the file, or it is refused. Kernels of three colours reach other bands by the
    option rgb alone, and red, green and blue by their names; provenance says what was done.

    Args:
        spec: of the route timm; `?contract=imagenet` takes the mean, standard deviation, size and interpolation of
            the weights' own
            configuration for red, green and blue.
        preprocessing: contract; as many bands as the network gets channels.
        seed: of random weights.

    Raises:
        UserError: no such model, no contract or two, weights that are not there or of another network, or kernels of
            three colours for other bands and no choice.
    """
    base = spec.name.partition(".")[0]
    known = timm.list_models()
    if base not in known:
        raise UserError(
            f"expected a model of timm, got {spec.name!r}{suggest_nearest(base, known)}; timm.list_models() names them"
        )
    contract = _contract(spec, preprocessing)
    if spec.random:
        refuse_options(spec, ("file", "keys", "rgb", "bands", "download"), reason="random weights come from no file")
    named = spec.options.get("contract")
    origin: dict[str, Any] = {"source": spec.text, "contract": named or "given by the caller"}
    try:
        with seed_weights(seed):
            model = timm.create_model(spec.name, pretrained=False, in_chans=len(contract.bands), num_classes=0)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # an unknown tag, channels it cannot take
        raise UserError(
            f"expected a model of timm for {len(contract.bands)} channels, got {str(error)[:120]} for {spec.text};"
            " choose another"
        ) from error
    if spec.random:
        order_first_layer(model, contract, name=spec.text)
    origin |= {"weights": "random", "seed": seed} if spec.random else _load_trained(spec, model, contract)
    model = resize_to_contract(model, contract, name=spec.text)
    pooling: Any = spec.options.get("pooling", "own")
    return ExternalEncoder(
        model, contract, name=spec.text, readout=Readout(spec.name, pooling=pooling), provenance=origin
    )


def _contract(spec: ExternalSpec, preprocessing: Preprocessing | None) -> Preprocessing:
    named = spec.options.get("contract")
    if preprocessing is not None:
        if named not in (None, "training"):
            raise UserError(f"expected one contract for {spec.text}, got one and contract={named}; leave out either")
        refuse_options(spec, ("sensor", "white"), reason="the contract is given")
        # The order of a task's bands is that of planes in its files, on which no weights may depend.
        return preprocessing if named is None else _sort_bands(preprocessing)
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


def _sort_bands(contract: Preprocessing) -> Preprocessing:
    """The same contract with its bands in the order of its sensor."""
    order = order_as_sensor(contract)
    clip: Any = contract.clip
    return replace(
        contract,
        bands=tuple(contract.bands[i] for i in order),
        mean=tuple(contract.mean[i] for i in order),
        std=tuple(contract.std[i] for i in order),
        clip=tuple(clip[i] for i in order) if clip is not None and isinstance(clip[0], tuple) else clip,
    )


def _load_trained(spec: ExternalSpec, model: Any, contract: Preprocessing) -> dict[str, Any]:
    """Put trained weights into ``model`` and return their provenance."""
    file = _find_file(spec)
    own = "file" in spec.options
    where = file.name if own else str(spec.name)
    state: Mapping[str, Tensor] = read_tensors(file, remedy="give a file of this model")
    codes = next((value for key, value in state.items() if key.split(".")[-1] == "pos_embed"), None)
    file_px = None if codes is None else fit_grid(model, codes)
    cfg = model.pretrained_cfg
    classifier = cfg.get("classifier") or ()
    options: dict[str, Any] = {"name": spec.text, "where": where, "remedy": _REMEDY}
    matched = match_keys(
        state,
        model,
        keys=spec.options.get("keys"),
        convert=_find_converter(model),
        heads=(classifier,) if isinstance(classifier, str) else classifier,
        **options,
    )
    origin: dict[str, Any] = {"weights": where} | ({} if file_px is None else {"trained_px": file_px})
    if own:
        origin |= {"whose": "a file given by the user, of which no licence is known here", "sha256": hash_file(file)}
    else:
        origin["licence"] = cfg.get("license")
    origin |= {"file": matched.to_json()} if matched.to_json() else {}
    tensors = dict(matched.tensors)
    origin |= _fit_first_layer(spec, model, tensors, contract)
    put_tensors(model, tensors, **options)
    return origin


def _fit_first_layer(
    spec: ExternalSpec, model: Any, tensors: dict[str, Tensor], contract: Preprocessing
) -> dict[str, str]:
    """Bring the kernels among ``tensors`` that see the bands to those of ``contract``, and return what was done."""
    own, given, spread = "file" in spec.options, spec.options.get("bands"), spec.options.get("rgb")
    photographs = not own and model.pretrained_cfg.get("input_size", (0,))[0] == len(COLOURS)
    first = find_first_layer(model)
    if first is None or tensors[first].ndim != 4 or model.get_parameter(first).shape[1] != len(contract.bands):
        in_order = locate_colours(contract) == [0, 1, 2] and len(contract.bands) == len(COLOURS)
        if given or spread or (photographs and not in_order):
            raise UserError(
                f"expected a network with one kernel for each band, to bring its first layer to"
                f" {', '.join(contract.bands)}, got {spec.text}; give a contract for red, green and blue in this order,"
                " or choose another network"
            )
        return {}
    fitted = fit_kernels(
        tensors[first],
        contract,
        name=spec.text,
        spread=spread,
        bands=None if given is None else given.split(","),
        photographs=photographs,
        listed=spec.options.get("contract") != "training",
    )
    tensors[first] = fitted.kernels
    return {"first_layer": fitted.words} | ({"remark": fitted.remark} if fitted.remark else {})


def _find_converter(model: nn.Module) -> Convert | None:
    """What timm does to the keys of the authors' files of this family, where it does something."""
    converter: Convert | None = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return converter


def _find_file(spec: ExternalSpec) -> Path:
    """File of the trained weights: the one given, that of the model hub's cache or, where allowed, of the network."""
    given = spec.options.get("file")
    if given is not None:
        if not Path(given).is_file():
            raise UserError(
                f"expected the weights of {spec.text} in {given}, got no such file; correct the option file"
            )
        return Path(given)
    own = timm.get_pretrained_cfg(spec.name)
    download = "download" in spec.options
    if own is not None and own.url and not own.hf_hub_id:
        return find_hub_file(str(own.url), name=spec.text, download=download)
    if own is None or not own.hf_hub_id:
        raise UserError(
            f"expected a model of timm with published weights, got {spec.name}; add @random for random weights, or"
            " give ?file=PATH"
        )
    hub = own.hf_hub_id
    repository = f"{hub}{own.architecture}.{own.tag}" if hub.endswith("/") else hub
    return _fetch(spec, repository, [own.hf_hub_filename] if own.hf_hub_filename else list(_FILES), download=download)


def _fetch(spec: ExternalSpec, repository: str, names: list[str], *, download: bool) -> Path:
    """One of the files ``names`` of a repository of the model hub, from its cache first."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    for name in names:
        path = try_to_load_from_cache(repository, name)
        if isinstance(path, str):
            return Path(path)
    reason = "no such file"
    for name in names if download else ():
        try:
            return Path(hf_hub_download(repository, name))
        except LocalEntryNotFoundError as error:
            reason = str(error).splitlines()[0][:160]
        except EntryNotFoundError:
            continue
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    remedy = "fetch it by other means and" if download else "allow the download by ?download, or"
    raise UserError(
        f"expected the weights of {spec.text} as {names[0]} of {repository} in {constants.HF_HUB_CACHE}, got {reason};"
        f" {remedy} give it by the option ?file=PATH"
    )
