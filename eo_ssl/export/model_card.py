"""``README.md`` of a bundle: a model card with the metadata the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eo_ssl.encoder import FusedEncoder, TrainedEncoder
from eo_ssl.export.contract_file import list_trained
from eo_ssl.export.encoder_module import MODULE_LINE, list_inputs
from eo_ssl.export.terms import Terms
from eo_ssl.export.torchgeo_checkpoints import CLASSIFICATION_FILE, SEGMENTATION_FILES, name_backbone
from eo_ssl.printable import show_controls

CARD_FILE = "README.md"
_TASKS_MODULE = Path(__file__).with_name("torchgeo_tasks.py")
POOLED = {
    "cls": "class token",
    "mean": "mean of the patch tokens",
    "avg": "mean of the last map's positions",
    "joint": "vector of both images together",
}


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """What the other files of the bundle turned out to be."""

    dataset: str
    "corpora with the first letters of their fingerprints"
    method: str
    "objective"
    torchgeo: str | None
    "timm name that TorchGeo's tasks build the network from"
    decoder: str
    "of TorchGeo's segmentation task"
    reason: str
    "why there is none"
    change: float | None
    "mean cosine between native features and those at 224 px, over the parity images; None where nothing is resized"
    apart: float
    "mean cosine between native features of different parity images"
    weights: str
    "name of the bare .pth"
    graphs: tuple[str, ...]
    "ONNX files"


def render_model_card(
    encoder: TrainedEncoder | FusedEncoder,
    content: Mapping[str, Any],
    facts: BundleFacts,
    terms: Terms,
    results: Sequence[Mapping[str, Any]],
    *,
    licence: str,
) -> bytes:
    """Return the card.

    Args:
        encoder: as it was trained.
        content: of preprocess.json.
        facts: of the other files.
        terms: licences of the training data.
        results: rows of an evaluation of this encoder, may be empty.
        licence: of the weights, as the hub spells it.
    """
    restricted, inputs = terms.non_commercial, list_inputs(encoder)
    in_timm = isinstance(encoder, TrainedEncoder) and encoder.architecture.model.in_timm
    head = {
        "library_name": "timm" if in_timm else "pytorch",
        "license": licence,
        "pipeline_tag": "image-feature-extraction",
        "tags": [
            *(["timm", "torchgeo"] if in_timm else []),
            "earth-observation",
            "self-supervised",
            *dict.fromkeys(part.preprocessing.sensor for part in inputs.values()),
        ]
        + (["non-commercial"] if restricted else []),
    }
    if isinstance(encoder, FusedEncoder):
        summary, loading = _summarise_pair(encoder, facts), _load_pair(encoder, facts)
    else:
        summary, loading = _summary(encoder, facts), _loading(encoder, facts)
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {show_controls(encoder.name)}",
        summary,
        *(["**The training data forbid commercial use, and so do these weights.**"] if restricted else []),
        "## What goes in\n\n" + _list_contracts(content),
        "## How to load it\n\n" + loading,
        "## Training\n\n" + _training(encoder, facts),
        "## Results\n\n" + _results(results),
        "## Data, attribution, licence\n\n" + _terms(terms, licence),
        "## Checks\n\n`parity.safetensors` holds generated images, the inputs made of them and the features every"
        " route must give, to 1e-5 "
        "(onnxruntime: 1e-4 of the value besides). `eo-ssl export --verify FOLDER` loads each route as its users do"
        " and compares.",
    ]
    return ("\n\n".join(parts) + "\n").encode()


def _summary(encoder: TrainedEncoder, facts: BundleFacts) -> str:
    config, contract = encoder.architecture, encoder.preprocessing
    count = sum(parameter.numel() for parameter in encoder.model.parameters())
    patch = config.timm_options.get("patch_size")
    patches = "" if patch is None else f", patches of {patch} px"
    return (
        f"A {config.model.title} ({config.model.name}, {count / 1e6:.1f} million parameters{patches}) for "
        f"{len(contract.bands)} bands of {contract.sensor}, trained without labels ({show_controls(facts.method)}) at"
        f" {config.size_px} px. "
        f"A feature vector is the {POOLED[encoder.pooling]}, {encoder.dim} numbers."
    )


def _summarise_pair(encoder: FusedEncoder, facts: BundleFacts) -> str:
    count = sum(parameter.numel() for parameter in encoder.parameters())
    bands = " and ".join(
        f"{len(part.preprocessing.bands)} bands of {part.preprocessing.sensor}"
        for part in list_inputs(encoder).values()
    )
    return (
        f"Transformers for two sensors, whose tokens are joined ({count / 1e6:.1f} million parameters), for {bands} of "
        f"the same ground, trained without labels ({show_controls(facts.method)}) at {encoder.size_px} px. A feature "
        f"vector is the {POOLED['joint']}, {encoder.dim} numbers."
    )


def _list_contracts(content: Mapping[str, Any]) -> str:
    """The contract of each input, in sentences."""
    trained = list_trained(content)
    parts = []
    for name in trained:
        lines = "\n".join(f"- {line}" for line in content["configurations"][name]["words"])
        parts.append(lines if len(trained) == 1 else f"### `{name}`\n\n{lines}")
    return "\n\n".join(parts)


def _load_pair(encoder: FusedEncoder, facts: BundleFacts) -> str:
    """Lines that open an encoder of two sensors, and who cannot."""
    size, inputs = encoder.size_px, list_inputs(encoder)
    shapes = "\n".join(
        f"# {name} [n, {len(part.architecture.bands)}, {size}, {size}], normalised as preprocess.json says, NaN where "
        "invalid"
        for name, part in inputs.items()
    )
    lines = (
        f"```python\nimport torch\n\nmodel = {MODULE_LINE}\n{shapes}\n"
        f"features = model({', '.join(inputs)})  # of the same ground -> [n, {encoder.dim}]\n```"
    )
    said = (
        "**timm and TorchGeo have no networks of two sensors**: there are no files for them. The file holds networks"
        " and weights, which can be trained further; torch alone opens it."
    )
    graphs = [
        f"- `{name}` with onnxruntime, {' and '.join(f'`{one}`' for one in inputs)} -> `features`."
        for name in facts.graphs
    ]
    return "\n\n".join([lines, said, *(["\n".join(graphs)] if graphs else [])])


def _loading(encoder: TrainedEncoder, facts: BundleFacts) -> str:
    chans, size = len(encoder.architecture.bands), encoder.architecture.size_px
    listed = "\n".join(f"- `{name}` with onnxruntime, `image` -> `features`." for name in facts.graphs)
    graphs = [listed] if listed else []
    if not encoder.architecture.model.in_timm:
        return "\n\n".join([*_loading_module(encoder), *graphs])
    timm_lines = (
        '```python\nimport timm\n\nmodel = timm.create_model("local-dir:timm", pretrained=True).eval()\n'
        f"features = model(x)  # x [n, {chans}, {size}, {size}] normalised as preprocess.json says -> [n,"
        f" {encoder.dim}]\n```"
    )
    hub = 'From the Hugging Face hub: `timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`.'
    if facts.torchgeo is None:
        lost = f"**TorchGeo's checkpoints are left out:** {facts.reason}. timm opens the encoder as it is."
        return "\n\n".join([timm_lines, hub, lost, *graphs])
    return "\n\n".join([timm_lines, hub, *_loading_torchgeo(encoder, facts), *graphs])


def _loading_module(encoder: TrainedEncoder) -> list[str]:
    """Lines that open a network that timm cannot name, and that say so."""
    chans, size, invalid = len(encoder.architecture.bands), encoder.architecture.size_px, "normalised"
    if encoder.backbone.reads_valid:
        invalid = "NaN where invalid and in bands that are not given, else normalised"
    lines = (
        f"```python\nimport torch\n\nmodel = {MODULE_LINE}\n"
        f"features = model(x)  # x [n, {chans}, {size}, {size}], {invalid} as preprocess.json says -> [n,"
        f" {encoder.dim}]\n```"
    )
    title = encoder.architecture.model.variant
    said = (
        f"**timm cannot name this network**, a {title}, nor can TorchGeo, which builds models by their timm name: there"
        " are no files for them. The file holds network and weights, which can be trained further; torch alone opens"
        " it."
    )
    return [lines, said]


def _loading_torchgeo(encoder: TrainedEncoder, facts: BundleFacts) -> list[str]:
    """Lines that open the bundle in TorchGeo, and what its 224 px change."""
    chans, size, model = len(encoder.architecture.bands), encoder.architecture.size_px, facts.torchgeo
    decoder, backbone = facts.decoder, name_backbone(model or "")
    pool = (
        "\nTorchGeo's classifier reads the class token, this encoder's features are the mean of the patch tokens: "
        '`task.model.reset_classifier(10, global_pool="avg")` puts the classifier there.\n'
        if encoder.pooling == "mean"
        else ""
    )
    more = f"in_channels={chans}, num_classes=10)\n"
    lines = (
        f"```python\nfrom weights import WEIGHTS, samples\n\n{_import_of_tasks()}\n"
        f'task = ClassificationTask("{model}", weights="{CLASSIFICATION_FILE}", {more}'
        f'task = SemanticSegmentationTask("{decoder}", "{backbone}", weights="{SEGMENTATION_FILES[decoder]}", {more}'
        f'task = ClassificationTask("{model}", weights=WEIGHTS, {more}'
        f"datamodule.aug = {_stored(encoder)}\n```\n{pool}"
    )
    if facts.change is None:
        return [lines.strip(), "TorchGeo's tasks take the encoder as it was trained, and images of any size."]
    change = (
        f"TorchGeo's tasks take 224 px. Positions were resampled for that, patches stay"
        f" {encoder.architecture.timm_options['patch_size']} px, images are interpolated. "
        f"This changes what is computed: the mean cosine between the features of an image at {size} px and at 224 px"
        f" is **{facts.change:.4f}**, "
        f"between those of different images at {size} px it is {facts.apart:.4f}. Both are over the images of the"
        " parity file, which are generated "
        "noise around the training means and not scenes."
    )
    return [lines.strip(), change]


def _import_of_tasks() -> str:
    """The lines that import TorchGeo's tasks from any of its versions."""
    source = _TASKS_MODULE.read_text(encoding="utf-8")
    return source[source.index("try:\n") :]


def _stored(encoder: TrainedEncoder) -> str:
    """The transform of samples for data as they are usually stored."""
    quantity = encoder.preprocessing.quantity
    if quantity.is_reflectance:
        return f'samples("{quantity.value}", scale=1e-4)  # the contract, for data stored as reflectance x 10,000'
    return f'samples("{quantity.value}", scale=1.0)  # the contract, for data stored as they are'


def _training(encoder: TrainedEncoder | FusedEncoder, facts: BundleFacts) -> str:
    config = encoder.provenance.get("config", {})
    kept = ("objective", "steps", "batch_size", "lr", "seed", "split", "streams")
    rows = [f"- data: {show_controls(facts.dataset)}"]
    rows += [f"- {key}: {show_controls(config[key])}" for key in kept if key in config]
    if "remark" in encoder.provenance:
        rows.append(f"- {show_controls(encoder.provenance['remark'])}")
    rows.append("- pretraining seeds: 1" if "seed" in config else "- pretraining: not stated")
    return "\n".join([*rows, f"- fingerprint of the encoder: `{encoder.fingerprint}`"])


def _results(results: Sequence[Mapping[str, Any]]) -> str:
    if not results:
        return "None were given with this export."
    head = ("task", "protocol", "amount", "metric", "value", "95 % interval", "n test", "split")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in results:
        bounds = "none" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        cells = (
            row["task"],
            row["protocol"],
            row["amount"],
            row["metric"],
            f"{100 * row['value']:.1f}",
            bounds,
            row["n_test"],
            row["split"],
        )
        lines.append("| " + " | ".join(show_controls(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(
        [*lines, "", "Values in per cent. One pretraining seed: the interval does not cover another training run."]
    )


def _terms(terms: Terms, licence: str) -> str:
    licence = show_controls(licence)
    if not terms.licences:
        return (
            f"Licence of the weights: {licence}. **The licences of the training data are not stated here**: the export"
            " was made without its corpora, "
            "so whether commercial use is allowed is not known."
        )
    lines = [
        f"- {show_controls(item['card'])}: {show_controls(item['licence'])}"
        + (" (non-commercial)" if item["non_commercial"] else "")
        + f". {show_controls(item['attribution'])}"
        for item in terms.licences
    ]
    return "\n".join([f"Licence of the weights: {licence}.", "", *lines])
