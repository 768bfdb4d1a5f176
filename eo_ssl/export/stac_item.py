"""The bundle as a STAC item with the machine learning model extension (MLM), written through stac-model."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eo_ssl.encoder import FusedEncoder, TrainedEncoder
from eo_ssl.errors import UserError
from eo_ssl.export.contract_file import list_trained
from eo_ssl.export.encoder_module import MODULE_FILE, list_inputs
from eo_ssl.export.model_card import CARD_FILE, BundleFacts
from eo_ssl.export.onnx_graph import PHYSICAL_GRAPH
from eo_ssl.export.timm_folder import TIMM_FOLDER
from eo_ssl.export.torchgeo_checkpoints import CLASSIFICATION_FILE, SEGMENTATION_FILES
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import sensor

ITEM_FILE = "stac_item.json"
_TASK = "similarity-search"  # of the extension's list, the one that features without a head serve
_RESIZE = {
    "bilinear": "interpolation-linear",
    "bilinear-corners": "interpolation-linear",
    "bicubic": "interpolation-cubic",
    "nearest": "interpolation-nearest",
    "area": "interpolation-area",
}
_EO = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"  # wavelengths of the bands
_DECODERS = {"dpt": "DPT", "unet": "U-Net"}
_ALWAYS = ("1900-01-01T00:00:00Z", "9999-12-31T23:59:59Z")  # a model is of no date; the core asks for one or a range


def require_stac_model() -> None:
    """Refuse where the library that writes the extension is missing.

    Raises:
        UserError: naming it.
    """
    if importlib.util.find_spec("stac_model") is None:
        raise UserError("expected the package stac-model, got none; install eo_ssl[export]")


def make_item(
    encoder: TrainedEncoder | FusedEncoder,
    content: Mapping[str, Any],
    facts: BundleFacts,
    *,
    licence: str,
    non_commercial: bool | None,
) -> bytes:
    """Return the item.

    Args:
        encoder: as it was trained.
        content: of preprocess.json, the only source of the inputs that the item describes.
        facts: of the other files.
        licence: of the weights.
        non_commercial: whether the data forbid commercial use; None where that is not known.
    """
    require_stac_model()
    import pystac
    import torch
    from stac_model.schema import MLModelExtension, MLModelProperties

    inputs = [content["configurations"][name] for name in list_trained(content)]
    shapes = [part.architecture for part in list_inputs(encoder).values()]
    options, names = shapes[0].timm_options, dict.fromkeys(f"{one.model.short} ({one.model.name})" for one in shapes)
    properties = {
        "start_datetime": _ALWAYS[0],
        "end_datetime": _ALWAYS[1],
        "title": encoder.name,
        "description": " ".join(words for one in inputs for words in one["words"]),
        "license": licence,
        "eo_ssl:encoder": encoder.fingerprint,
        "eo_ssl:non_commercial": non_commercial,
    }
    item = pystac.Item(id=encoder.name, geometry=None, bbox=None, datetime=None, properties=properties)
    model = MLModelProperties(
        name=encoder.name,
        architecture=" and ".join(names) + (" for each of two sensors, joined" if len(inputs) > 1 else ""),
        tasks={_TASK},
        framework="pytorch",
        framework_version=torch.__version__.partition("+")[0],
        total_parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        pretrained=True,
        pretrained_source=facts.dataset,
        hyperparameters={
            "objective": facts.method,
            "pooling": content["pooling"],
            **({"patch_size": options["patch_size"]} if "patch_size" in options else {}),
        },
        input=[describe_input(one) for one in inputs],
        output=[_output(encoder.dim)],
    )
    MLModelExtension.ext(item, add_if_missing=True).apply(model)
    item.stac_extensions.append(_EO)
    for key, asset in _assets(encoder, content, facts).items():
        item.add_asset(key, pystac.Asset(**asset))
    return json.dumps(item.to_dict(include_self_link=False, transform_hrefs=False), indent=1, sort_keys=True).encode()


def describe_input(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the extension's input of a configuration of preprocess.json: bands by name, a scaling for each."""
    contract = Preprocessing.from_json(configuration["preprocessing"])
    scaling = [
        {"type": "z-score", "mean": mean, "stddev": std} for mean, std in zip(contract.mean, contract.std, strict=True)
    ]
    resize = {"native": None, "crop": "crop", "to_size": _RESIZE[contract.interpolation]}[contract.resize]
    return {
        "name": f"{contract.final_quantity.value} of {contract.sensor}",
        "bands": list(contract.bands),
        "input": {
            "shape": [-1, *configuration["input"]],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": scaling,
        "resize_type": resize,
        "pre_processing_function": {
            "format": "uri",
            "expression": "./preprocess.json",
            "description": " ".join(configuration["words"]),
        },
    }


def _output(dim: int) -> dict[str, Any]:
    return {
        "name": "features",
        "tasks": {_TASK},
        "result": {"shape": [-1, dim], "dim_order": ["batch", "feature"], "data_type": "float32"},
    }


def _band(band: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"name": band.name, "gsd": band.gsd_m}
    if band.wavelength_um is not None:
        fields["eo:center_wavelength"] = band.wavelength_um
    return fields


def _assets(
    encoder: TrainedEncoder | FusedEncoder, content: Mapping[str, Any], facts: BundleFacts
) -> dict[str, dict[str, Any]]:
    """Files by key; what takes another input than the item says carries its own description of it."""
    model, weights = ["mlm:model"], ["mlm:weights"]
    contracts = [part.preprocessing for part in list_inputs(encoder).values()]
    bands = {"bands": [_band(sensor(one.sensor).band(name)) for one in contracts for name in one.bands]}
    assets: dict[str, dict[str, Any]] = {}
    if isinstance(encoder, TrainedEncoder) and encoder.architecture.model.in_timm:
        assets["timm"] = _asset(
            f"{TIMM_FOLDER}/model.safetensors", "timm local-dir", model + weights, "safetensors", bands
        )
    else:
        assets["module"] = _asset(MODULE_FILE, "program of torch.export", model + weights, "torch.export", bands)
    if facts.torchgeo is not None:
        own = {"mlm:input": [describe_input(content["configurations"]["torchgeo"])]}
        assets |= {
            "torchgeo_classification": _asset(
                CLASSIFICATION_FILE, "TorchGeo ClassificationTask", weights, "torch.save", own
            ),
            "torchgeo_segmentation": _asset(
                SEGMENTATION_FILES[facts.decoder],
                f"TorchGeo SemanticSegmentationTask ({_DECODERS[facts.decoder]})",
                weights,
                "torch.save",
                own,
            ),
            "weights": _asset(facts.weights, "state dict, see weights.py", weights, "torch.save", own),
        }
    for name in facts.graphs:
        inside = bands | (
            {"description": "takes physical values, the contract is inside"} if name == PHYSICAL_GRAPH else {}
        )
        assets[Path(name).stem] = _asset(name, "ONNX graph", model, "onnx", inside)
    assets["preprocess"] = {
        "href": "./preprocess.json",
        "title": "preprocessing contract",
        "media_type": "application/json",
        "roles": ["metadata"],
    }
    assets["card"] = {
        "href": f"./{CARD_FILE}",
        "title": "model card",
        "media_type": "text/markdown",
        "roles": ["overview"],
    }
    return assets


def _asset(href: str, title: str, roles: list[str], kind: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    fields = {"mlm:artifact_type": kind, **(more or {})}
    return {
        "href": f"./{href}",
        "title": title,
        "media_type": "application/octet-stream",
        "roles": roles,
        "extra_fields": fields,
    }


def check_item(folder: Path) -> str:
    """Check a bundle's item: the core by pystac's schema, the extension by stac-model's types, every asset by its file.

    Returns:
        The schema of the extension.

    Raises:
        UserError: something of it does not hold.
    """
    require_stac_model()
    from jsonschema import Draft7Validator
    from pystac.validation.local_validator import get_local_schema_cache
    from referencing import Registry, Resource
    from stac_model.schema import SCHEMA_URI, MLModelProperties

    path = folder / ITEM_FILE
    item = json.loads(path.read_bytes())
    cache = get_local_schema_cache()
    registry: Any = Registry().with_resources([(uri, Resource.from_contents(schema)) for uri, schema in cache.items()])
    core = next(schema for uri, schema in cache.items() if uri.endswith("/item.json"))
    wrong = [error.message for error in Draft7Validator(core, registry=registry).iter_errors(item)]
    extension = next((uri for uri in item["stac_extensions"] if "/mlm/" in uri), "none")
    if extension != SCHEMA_URI:
        wrong.append(f"extension {extension} instead of {SCHEMA_URI}")
    model = MLModelProperties(**{key: value for key, value in item["properties"].items() if key.startswith("mlm:")})
    for entry in model.input:
        count = {len(entry.bands or ()), len(entry.value_scaling or ()), int(entry.input.shape[1])}
        if len(count) != 1:
            wrong.append(f"bands, scalings and channels differ in number: {sorted(count)}")
    wrong += [f"no file {asset['href']}" for asset in item["assets"].values() if not (folder / asset["href"]).is_file()]
    if wrong:
        raise UserError(f"expected a valid item in {path}, got {wrong[0][:200]}; export the encoder again")
    return str(SCHEMA_URI)
