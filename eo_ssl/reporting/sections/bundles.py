"""Exported bundles: what each of their files opens in, what they take as input and what their licences allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eo_ssl.export import (
    CARD_FILE,
    CLASSIFICATION_FILE,
    ENCODER_GRAPH,
    ITEM_FILE,
    MODULE_FILE,
    PARITY_FILE,
    PHYSICAL_GRAPH,
    POOLED,
    PREPROCESS_FILE,
    SEGMENTATION_FILES,
    TIMM_CONFIG,
    TIMM_FOLDER,
    TIMM_WEIGHTS,
    WEIGHTS_FILE,
    check_files,
    get_contract,
    list_trained,
    name_backbone,
    read_configurations,
)
from eo_ssl.reporting.formatting import (
    MISSING,
    describe_commercial_use,
    format_count,
    format_fixed,
    format_number,
    format_size,
    list_owners,
)
from eo_ssl.reporting.products import FinishedProduct, expect_sound
from eo_ssl.sensors import sensor

FILE_WORDS = {
    CARD_FILE: "model card",
    PREPROCESS_FILE: "the contract, for machines and in words",
    PARITY_FILE: "images and the features every route must give",
    TIMM_CONFIG: "architecture, for timm",
    TIMM_WEIGHTS: "weights, for timm",
    MODULE_FILE: "network and weights, for torch",
    CLASSIFICATION_FILE: "checkpoint for classification",
    **dict.fromkeys(SEGMENTATION_FILES.values(), "checkpoint for segmentation"),
    WEIGHTS_FILE: "WeightsEnum with its transforms",
    ENCODER_GRAPH: "graph from the normalised input",
    PHYSICAL_GRAPH: "graph from physical values",
    ITEM_FILE: "STAC item with the machine-learning model extension",
    ".pth": "bare state dict",
    "bench": "model of torchgeo-bench",
}

CONFIGURATIONS = {
    "native": "As trained",
    "torchgeo": "For TorchGeo",
    "radar": "Radar images",
    "optical": "Optical images",
}


@dataclass(frozen=True, slots=True)
class BundleView:
    """One bundle."""

    name: str
    "folder name"
    anchor: str
    "id in the page"
    sentence: str
    "which encoder"
    facts: tuple[tuple[str, str], ...]
    "input, features, licence, sizes"
    change: str
    "what the change to 224 px does, or why there is no such configuration"
    routes: tuple[tuple[str, str], ...]
    "(library, the line that opens it)"
    contracts: tuple[tuple[str, tuple[str, ...]], ...]
    "(configuration, sentences in the order they are carried out)"
    files: tuple[tuple[str, str, str, str], ...]
    "(path, what it is, size, sha256)"
    owners: tuple[tuple[str, str], ...]
    "(licence, attribution) of the training data, each pair once"


def describe_bundle(product: FinishedProduct, position: int) -> BundleView:
    """Everything the page shows about one bundle; weights are not opened.

    Raises:
        UserError: another contract than its manifest names, or papers that are damaged.
    """
    with expect_sound(product):
        return _describe(product, position)


def _describe(product: FinishedProduct, position: int) -> BundleView:
    check_files(product.path, product.manifest, only=(PREPROCESS_FILE,))
    content = read_configurations(product.path)
    summary, trained = product.manifest.summary, list_trained(content)
    contracts = [get_contract(content, name) for name in trained]
    sides = [int(content["configurations"][name]["input"][1]) for name in trained]
    paths = {name: product.path / name for name in summary["files"]}
    sizes = {name: path.stat().st_size for name, path in paths.items() if path.is_file()}
    pooled = POOLED[content["pooling"]]
    cosine = summary["cosine_native_to_torchgeo"]
    return BundleView(
        name=product.name,
        anchor=f"bundle-{position + 1}",
        sentence=f"The encoder {content['name']} in {format_count(len(paths), 'file')} that open without this library.",
        facts=(
            ("Encoder", str(content["name"])),
            (
                "Input",
                " and ".join(
                    f"{format_count(len(one.bands), 'band')}, {side} px"
                    for one, side in zip(contracts, sides, strict=True)
                ),
            ),
            ("Sensor", " and ".join(sensor(one.sensor).title for one in contracts)),
            ("Features", f"{format_number(int(content['dim']))} numbers, {pooled}"),
            ("Licence of the weights", str(product.manifest.config["licence"])),
            ("Commercial use", describe_commercial_use(summary["non_commercial"])),
            ("Cosine native to 224 px", MISSING if cosine is None else format_fixed(cosine, 4)),
            ("Size", format_size(sum(sizes.values()))),
        ),
        change=_change(summary, sides[0]),
        routes=tuple(_routes(content, summary, product.path.name)),
        contracts=tuple(
            (
                f"{CONFIGURATIONS[name]}, {form['input'][1]} px",
                tuple(form["words"]),
            )
            for name, form in sorted(content["configurations"].items())
        ),
        files=tuple(
            (
                name,
                FILE_WORDS.get(name) or FILE_WORDS.get(Path(name).suffix) or FILE_WORDS.get(Path(name).parts[0], ""),
                format_size(sizes[name]) if name in sizes else MISSING,
                digest,
            )
            for name, digest in sorted(summary["files"].items())
        ),
        owners=list_owners(summary["licences"]),
    )


def _change(summary: Mapping[str, Any], size_px: int) -> str:
    if summary["torchgeo"] is None:
        opens = "torch" if MODULE_FILE in summary["files"] else "timm"
        return f"No files for TorchGeo: {summary['torchgeo_left_out']}. {opens} opens the encoder as it is."
    if summary["cosine_native_to_torchgeo"] is None:
        return f"TorchGeo's tasks take the encoder as it was trained, as {summary['torchgeo']}, and images of any size."
    return (
        f"TorchGeo's tasks take 224 px, so the encoder leaves for them as {summary['torchgeo']} with resampled "
        f"positions. The mean cosine between features at {size_px} px and at 224 px is "
        f"{format_fixed(summary['cosine_native_to_torchgeo'], 4)}; between those of different images it is "
        f"{format_fixed(summary['cosine_between_images'], 4)}."
    )


def _routes(content: Mapping[str, Any], summary: Mapping[str, Any], folder: str) -> Iterator[tuple[str, str]]:
    """Library and the line that opens the bundle in it, for the files that are there."""
    files, model = summary["files"], summary["torchgeo"]
    chans = len(content["configurations"][list_trained(content)[0]]["preprocessing"]["bands"])
    backbone = "" if model is None else name_backbone(model)
    lines = (
        (TIMM_WEIGHTS, "timm", f'timm.create_model("local-dir:{folder}/{TIMM_FOLDER}", pretrained=True)'),
        (MODULE_FILE, "torch", f'torch.export.load("{folder}/{MODULE_FILE}").module()'),
        (
            CLASSIFICATION_FILE,
            "TorchGeo",
            f'ClassificationTask("{model}", weights="{folder}/{CLASSIFICATION_FILE}", in_channels={chans})',
        ),
        *(
            (
                file,
                "TorchGeo",
                f'SemanticSegmentationTask("{decoder}", "{backbone}", weights="{folder}/{file}", in_channels={chans})',
            )
            for decoder, file in SEGMENTATION_FILES.items()
        ),
        (
            WEIGHTS_FILE,
            "TorchGeo",
            f'from weights import WEIGHTS; ClassificationTask("{model}", weights=WEIGHTS, in_channels={chans})',
        ),
        (ENCODER_GRAPH, "onnxruntime", f'InferenceSession("{folder}/{ENCODER_GRAPH}")'),
        (PHYSICAL_GRAPH, "onnxruntime", f'InferenceSession("{folder}/{PHYSICAL_GRAPH}")'),
        (ITEM_FILE, "pystac", f'pystac.Item.from_file("{folder}/{ITEM_FILE}")'),
    )
    return ((library, line) for name, library, line in lines if name in files)
