"""The hand-off around the bundle: terms, card, hub, command line, and fine-tuning in TorchGeo."""

from __future__ import annotations

import inspect
import json
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import HfApi
from lightning.pytorch import Trainer
from torchgeo.datamodules import EuroSATDataModule
from torchgeo.datasets import EuroSAT

from eo_ssl.encoder import save_encoder
from eo_ssl.errors import UserError
from eo_ssl.export import Options, Terms, collect_terms, export, list_uploads, push
from eo_ssl.export.parity import read as read_parity
from eo_ssl.export.torchgeo_checkpoints import CLASSIFICATION_FILE
from eo_ssl.export.torchgeo_naming import resize_for_torchgeo
from eo_ssl.export.torchgeo_tasks import ClassificationTask
from eo_ssl.manifest import Clock, finish
from eo_ssl.models import Vit
from exported import TINY_8, encoder, optical, radar
from workflows.export import main
from worlds.benchmarks.eurosat import make_eurosat

FREE = {
    "card": "s2",
    "licence": "CC BY 4.0",
    "attribution": "Contains modified Copernicus data",
    "non_commercial": False,
}
BOUND = {"card": "mstar", "licence": "CC BY-NC 4.0", "attribution": "AFRL", "non_commercial": True}
TRAINED = {"inputs": {"corpus a": "a" * 64, "corpus b": "b" * 64, "subset a": "s" * 64}}


def test_terms_come_from_the_corpora_the_encoder_was_trained_on() -> None:
    assert collect_terms(TRAINED, {}).non_commercial is None
    both = collect_terms(TRAINED, {"a" * 64: [FREE], "b" * 64: [BOUND]})
    assert both.non_commercial is True
    assert both.attributions == ("Contains modified Copernicus data", "AFRL")
    assert collect_terms({"inputs": {"corpus a": "a" * 64}}, {"a" * 64: [FREE]}).non_commercial is False
    assert collect_terms({**TRAINED, "licences": [BOUND]}, {}).non_commercial is True  # an encoder that carries its own
    unknown = {**FREE, "licence": "unknown", "non_commercial": None}  # weights of others that it was trained from
    assert collect_terms({**TRAINED, "licences": [FREE, unknown]}, {}).non_commercial is None
    assert collect_terms({**TRAINED, "licences": [BOUND, unknown]}, {}).non_commercial is True
    with pytest.raises(UserError, match="got one of fingerprint ffffffffffff"):
        collect_terms(TRAINED, {"f" * 64: [FREE]})
    with pytest.raises(UserError, match="got none of fingerprint corpus b bbbbbbbbbbbb"):
        collect_terms(TRAINED, {"a" * 64: [FREE]})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the timm route alone, quick to make."""
    row = {
        "task": "eurosat",
        "protocol": "knn5",
        "amount": "all",
        "metric": "accuracy",
        "value": 0.5,
        "low": 0.25,
        "high": None,
        "n_test": 20,
        "split": "spatial",
    }
    rows = ({**row, "high": 0.75}, {**row, "protocol": "linear", "low": None})
    options = Options(onnx=False, terms=Terms((FREE,)), results=rows, licence="apache-2.0")
    return export(encoder(TINY_8, radar(32)), tmp_path_factory.mktemp("tiny") / "bundle", options=options).folder


def test_the_card_holds_metadata_results_and_attribution(tiny: Path) -> None:
    _, head, body = (tiny / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "apache-2.0"
    assert yaml.safe_load(head)["library_name"] == "timm"
    assert "| eurosat | knn5 | all | accuracy | 50.0 | 25.0 to 75.0 | 20 | spatial |" in body
    assert "| linear | all | accuracy | 50.0 | none |" in body
    assert "Contains modified Copernicus data" in body
    assert "- objective: mae" in body and "- steps: 7" in body


class FakeHub:
    """Records calls as the hub's client takes them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error = error

    def create_repo(self, repo_id: str, **options: Any) -> None:
        if self.error:
            raise self.error
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload_folder", options))


def test_a_push_sends_the_bundle_and_timms_files_to_the_root(tiny: Path) -> None:
    hub = FakeHub()
    sent = push(tiny, "owner/name", api=hub)
    assert [name for name, _ in hub.calls] == ["create_repo", "upload_folder", "upload_folder"]
    assert hub.calls[0][1] == {"repo_id": "owner/name", "private": True, "exist_ok": True}
    folders = [Path(options["folder_path"]) for _, options in hub.calls[1:]]
    assert folders == [tiny, tiny / "timm"]
    assert all("manifest.json" in options["ignore_patterns"] for _, options in hub.calls[1:])
    assert {one.target for one in sent} >= {"config.json", "model.safetensors", "timm/config.json", "README.md"}
    assert sent == list_uploads(tiny)
    for name, options in hub.calls:  # the fake takes anything; the real client must know every argument
        assert set(options) <= set(inspect.signature(getattr(HfApi, name)).parameters)


def test_timm_opens_the_repository_as_a_push_leaves_it(tiny: Path, tmp_path: Path) -> None:
    # `hf-hub:owner/name` reads config.json and model.safetensors at the root, as `local-dir:` does.
    for one in list_uploads(tiny):
        (tmp_path / one.target).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / one.target).write_bytes(one.source.read_bytes())
    measured = read_parity(tiny)
    with torch.inference_mode():
        found = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(measured.input("native"))
    torch.testing.assert_close(found, measured.features("native"), rtol=0, atol=1e-6)


def test_a_push_that_cannot_be_is_refused(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"expected a repository as owner/name, got 'name'"):
        push(tiny, "name", api=FakeHub())
    with pytest.raises(UserError, match=r"expected the hub to take o/n, got no token; log in"):
        push(tiny, "o/n", api=FakeHub(OSError("no token")))


def trained(folder: Path) -> Path:
    """A finished pretraining product on disk."""
    ours = encoder(TINY_8, radar(32))
    product = save_encoder(folder, ours.backbone, preprocessing=ours.preprocessing, provenance=ours.provenance)
    finish(folder, stage="pretrain", config={}, inputs={}, product=product, started=Clock())
    return folder


def test_the_command_exports_verifies_and_lists_a_push(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = trained(tmp_path / "encoder"), tmp_path / "bundle"
    assert main(encoder=source, out=out, onnx=False, push="owner/name", dry_run=True) == 0
    said = capsys.readouterr().out
    assert "timm route only" in said and "commercial use: not known" in said
    assert "owner/name/timm/model.safetensors" in said and "would be sent to owner/name" in said
    assert main(encoder=source, out=out, onnx=False) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(verify=out) == 0
    assert "4 of 4 passed" in capsys.readouterr().out
    (out / "timm" / "config.json").write_text("{}")
    assert main(verify=out) == 1
    assert "FAILED" in capsys.readouterr().out


class FakeCorpus:
    """As far as an export asks a corpus: which it is, and whose data it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest(self) -> SimpleNamespace:
        return SimpleNamespace(fingerprint="c" * 64 if self.path.name == "right" else "d" * 64)

    def licences(self) -> list[dict[str, Any]]:
        return [BOUND]


def test_licences_and_results_come_from_their_products(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("workflows.export.Corpus.open", FakeCorpus)
    source, results = trained(tmp_path / "encoder"), tmp_path / "results"
    row = {
        "task": "mstar_soc",
        "protocol": "knn5",
        "amount": "10",
        "metric": "accuracy",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n_test": 20,
        "split": "soc",
        "reference": "",
        "encoder_fingerprint": encoder(TINY_8, radar(32)).fingerprint,
    }
    rows = (
        row,
        {**row, "protocol": "linear", "encoder_fingerprint": "e" * 64},
        {**row, "reference": "radar", "value": 0.1},
    )
    (results / "rows").mkdir(parents=True)
    for number, one in enumerate(rows):
        (results / "rows" / f"{number}.json").write_text(json.dumps(one))
    finish(results, stage="evaluate", config={}, inputs={}, product="r" * 64, started=Clock())
    out = tmp_path / "bundle"
    assert main(encoder=source, out=out, name="radar", corpus=[Path("right")], results=results, onnx=False) == 0
    assert "commercial use: forbidden" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert (
        card.count("| mstar_soc |") == 1 and "| knn5 | 10 | accuracy | 50.0 |" in card
    )  # neither another encoder's nor a departure
    assert "# radar" in card and "AFRL" in card
    with pytest.raises(UserError, match="expected corpora the encoder was trained on"):
        main(encoder=source, out=tmp_path / "other", corpus=[Path("wrong")], onnx=False)
    with pytest.raises(UserError, match=r"differs in config\.name"):
        main(encoder=source, out=out, name="other", corpus=[Path("right")], results=results, onnx=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "expected an encoder and out, or verify"),
        ({"verify": Path("a"), "out": Path("b")}, "expected verify alone"),
        ({"encoder": Path("a"), "out": Path("b"), "dry_run": True}, "expected dry_run with push"),
        ({"encoder": Path("a"), "out": Path("b"), "push": "name"}, "expected a repository as owner/name"),
        ({"encoder": Path("nowhere"), "out": Path("b")}, "expected an encoder folder"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        main(**options)


# Of lightning 2.6 about torch's pytree, and about loaders that a small machine need not parallelise.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning", "ignore:.*does not have many workers.*")
def test_three_lines_fine_tune_in_torchgeo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bands = ("B02", "B03", "B04", "B08", "B8A", "B11")  # B8A stands last in EuroSAT's files
    model = Vit("vit_tiny_patch16_224", patch_size=16, pooling="cls")
    ours = encoder(model, optical(64, bands), name="optical tiny")
    bundle = export(ours, tmp_path / "bundle", options=Options(onnx=False)).folder
    root = str(make_eurosat(tmp_path / "eurosat", per_class=5))
    monkeypatch.syspath_prepend(str(bundle))
    monkeypatch.delitem(sys.modules, "weights", raising=False)
    from weights import WEIGHTS, samples  # type: ignore[import-not-found]

    checkpoint = str(bundle / CLASSIFICATION_FILE)
    data = EuroSATDataModule(root=root, bands=WEIGHTS.meta["bands"], batch_size=10)
    data.aug = samples("toa_reflectance", scale=1e-4)
    torch.manual_seed(0)
    task = ClassificationTask("vit_tiny_patch16_224", weights=checkpoint, in_channels=6, num_classes=10, lr=1e-4)
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    exported = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(before[key.removeprefix("model.")], value) for key, value in exported.items())
    seen: list[torch.Tensor] = []
    task.model.patch_embed.register_forward_hook(lambda _, args, __: seen.append(args[0].detach()))

    Trainer(
        max_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    ).fit(task, data)

    changed = {key for key, value in task.model.state_dict().items() if not torch.equal(before[key], value)}
    assert {"head.weight", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight"} <= changed
    # What the network saw of the validation files is what the contract makes of them: bands by name, reflectance once.
    files = EuroSAT(root, split="val", bands=bands)
    images = torch.stack([files[i]["image"] for i in range(10)]) * 1e-4
    contract = resize_for_torchgeo(ours, "vit_tiny_patch16_224").preprocessing
    x, _ = contract(images, bands=bands, quantity="toa_reflectance", sensor="sentinel2_l1c")
    assert len(seen) == 4  # three steps of training, one of validation
    torch.testing.assert_close(seen[3], x)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning", "ignore:.*does not have many workers.*")
def test_the_lines_of_the_readme_fine_tune(project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lines,) = re.findall(r"```python\n(import sys\n.*?)```", (project_root / "README.md").read_text(), flags=re.DOTALL)
    quiet = (
        "max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False"
    )
    (tmp_path / "tuned.py").write_text(
        lines.replace("max_epochs=10", f"{quiet}, accelerator='cpu'").replace("=64", "=10")
    )
    bands = ("B02", "B8A", "B11")
    model = Vit("vit_tiny_patch16_224", patch_size=16)
    bundle = export(encoder(model, optical(64, bands)), tmp_path / "bundle", options=Options(onnx=False)).folder
    make_eurosat(tmp_path / "eurosat", per_class=5)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "weights", raising=False)
    tuned = runpy.run_path("tuned.py")["task"].model.state_dict()
    exported = torch.load(bundle / CLASSIFICATION_FILE, weights_only=True)["state_dict"]
    change = [(tuned[key.removeprefix("model.")] - value).abs().max() for key, value in exported.items()]
    assert 0 < max(change) < 0.1  # of one step of training from the exported weights, not from random ones


def test_a_mean_pooled_encoder_gets_its_classifier_behind_the_mean(tmp_path: Path) -> None:
    ours = encoder(Vit("vit_tiny_patch16_224", patch_size=16), name="mean tiny")
    bundle = export(ours, tmp_path / "bundle", options=Options(onnx=False)).folder
    task = ClassificationTask(
        "vit_tiny_patch16_224", weights=str(bundle / CLASSIFICATION_FILE), in_channels=2, num_classes=10
    )
    task.model.reset_classifier(10, global_pool="avg")
    measured = read_parity(bundle)
    with torch.inference_mode():
        logits = task.eval()(measured.input("torchgeo"))
    torch.testing.assert_close(logits, task.model.head(measured.features("torchgeo")), rtol=1e-4, atol=1e-5)
    assert 'reset_classifier(10, global_pool="avg")' in (bundle / "README.md").read_text()


def test_the_lines_of_the_card_open_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = export(
        encoder(Vit("vit_tiny_patch16_224", patch_size=16)), tmp_path / "bundle", options=Options(onnx=False)
    ).folder
    (lines,) = re.findall(r"```python\n(from weights.*?)```", (bundle / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "opened.py").write_text(lines)
    monkeypatch.chdir(bundle)
    monkeypatch.syspath_prepend(str(bundle))
    monkeypatch.delitem(sys.modules, "weights", raising=False)
    datamodule = SimpleNamespace()
    opened = runpy.run_path(str(tmp_path / "opened.py"), {"datamodule": datamodule})
    measured = read_parity(bundle)
    with torch.inference_mode():
        tokens = opened["task"].eval().model.forward_features(measured.input("torchgeo"))
    torch.testing.assert_close(tokens[:, 1:].mean(dim=1), measured.features("torchgeo"), rtol=1e-5, atol=1e-5)
    prepared = datamodule.aug({"image": measured.tensors["images"]})["image"]
    torch.testing.assert_close(prepared, measured.input("torchgeo"))


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("torchgeo.tasks", ("Classification", "SemanticSegmentation")),
        ("torchgeo.trainers", ("ClassificationTask", "SemanticSegmentationTask")),
    ],
)
def test_tasks_have_one_name_in_every_torchgeo(
    module: str, names: tuple[str, str], project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = {name: type(name, (), {}) for name in names}
    monkeypatch.setitem(sys.modules, "torchgeo.tasks", None)  # as in TorchGeo 0.8 and 0.9
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**classes))
    found = runpy.run_path(str(project_root / "eo_ssl" / "export" / "torchgeo_tasks.py"))
    assert (found["ClassificationTask"], found["SemanticSegmentationTask"]) == tuple(classes.values())
