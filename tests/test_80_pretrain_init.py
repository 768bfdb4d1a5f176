"""Training that goes on from weights of others: the same tokens, their contract, and a sentence for what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from eo_ssl.encoder import ExternalEncoder, Readout, collect_licences, load_encoder, rebuild_backbone
from eo_ssl.errors import UserError
from eo_ssl.manifest import require
from eo_ssl.models import ResNet, View, Vit
from eo_ssl.objectives import Distill, SimClr
from eo_ssl.pretraining import FitConfig, Frozen, Lora
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows import ingest, pretrain
from test_75_encoder_foreign_weights import contract, network

RGB = ("B04", "B03", "B02")
L2A = "sensor=sentinel2_l2a&white=0.3"
SHORT = {"steps": 2, "batch_size": 4, "training": FitConfig(log_every=1, monitor_every=2, monitor_tiles=8)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of 32 px of twelve bands of Sentinel-2."""
    root = tmp_path_factory.mktemp("init")
    spec = ArchiveSpec(sites=1, dates=1, size_px=192, exact_duplicates=0, near_duplicates=0, reprocessed=0)
    make_archive(root / "archive", seed=1, spec=spec)
    ingest.main("sample_s2_l2a", data=root / "archive", out=root / "s2", size_px=32, dask="synchronous")
    return root / "s2"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a small transformer of timm for three colours, saved as its trainer does."""
    file = tmp_path_factory.mktemp("weights") / "teacher.pth"
    torch.save({"teacher": {f"backbone.{key}": value for key, value in network("test_vit").state_dict().items()}}, file)
    return file


def load(source: str, **options: Any) -> ExternalEncoder:
    encoder = load_encoder(source, **options)
    assert isinstance(encoder, ExternalEncoder)
    return encoder


@pytest.mark.parametrize(
    ("source", "bands", "size_px"),
    [
        ("timm:test_vit@random", RGB, 48),
        ("timm:test_vit@random?pooling=mean", (*RGB, "B08"), 32),
        ("timm:vit_small_patch14_reg4_dinov2@random", RGB, 28),
        ("timm:test_resnet@random", (*RGB, "B11"), 40),
        ("torchgeo:ResNet50_Weights.SENTINEL2_ALL_CLOSP@random?size=64", None, 64),  # a channel that is always zero
    ],
)
def test_a_foreign_network_becomes_a_backbone_with_the_same_features(
    source: str, bands: tuple[str, ...] | None, size_px: int
) -> None:
    encoder = load(source, preprocessing=None if bands is None else contract(bands, size_px))
    backbone = rebuild_backbone(encoder).at_size(size_px).eval()
    bands = encoder.preprocessing.bands
    x = torch.randn(2, len(bands), size_px, size_px, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = backbone(View(x, torch.ones_like(x, dtype=torch.bool), bands))
        pairs = [(tokens.pooled, encoder.features(x)), (tokens.patches, encoder.tokens(x))]
        for mine, theirs in pairs:
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
            assert encoder.readout.blank or torch.equal(mine, theirs)
    plain = timm.create_model(backbone.config.model.name, **backbone.config.timm_options)
    plain.load_state_dict(backbone.network.state_dict())


def test_a_projection_is_left_out_and_other_networks_are_refused() -> None:
    whole, part = network("test_vit", num_classes=7, in_chans=3), network("test_vit", num_classes=0, in_chans=3)
    part.load_state_dict(whole.state_dict(), strict=False)
    made = [
        ExternalEncoder(model, contract(RGB, 160), name="theirs", readout=Readout("test_vit"), provenance={})
        for model in (whole, part)
    ]
    x = torch.randn(1, 3, 160, 160)
    view = View(x, torch.ones_like(x, dtype=torch.bool), RGB)
    assert torch.equal(rebuild_backbone(made[0]).eval()(view).pooled, made[1].features(x))
    for name in ("test_vit2", "test_convnext", "vit_base_patch16_siglip_gap_224", "deit_tiny_distilled_patch16_224"):
        theirs = network(name, num_classes=0, **({"depth": 1} if name.startswith("vit") else {}))
        encoder = ExternalEncoder(
            theirs,
            contract(RGB, theirs.default_cfg["input_size"][1]),
            name="theirs",
            readout=Readout(name),
            provenance={},
        )
        with pytest.raises(UserError, match=r"expected a vision transformer .*; choose other weights, or let it teach"):
            rebuild_backbone(encoder)


def test_training_goes_on_from_a_foreign_file_and_says_what_changes(
    corpus: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = f"timm:test_vit?contract=imagenet&file={weights}&{L2A}", tmp_path / "out"
    pretrain.main(corpus, out, init=source, objective=SimClr(), lr=1e-12, **SHORT)
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "bands B01, B05, B06, B07, B08, B09, B11, B12, B8A of the tiles are not used, it has no input for them",
        "position codes of 10 x 10 patches are interpolated to 2 x 2",
        "its images were brought to 160 px (to_size), tiles of 32 px enter as they are",
        "kernels of red, green and blue on B04, B03, B02",
    ):
        assert words in said, words
    theirs, after = load(source), load_encoder(out)
    kept = ("bands", "mean", "std", "clip", "sensor", "quantity")
    assert [getattr(after.preprocessing, key) for key in kept] == [getattr(theirs.preprocessing, key) for key in kept]
    assert after.architecture.model == Vit("test_vit", 16, position="learned", pooling="cls")
    assert after.preprocessing.size_px == 32
    resized = rebuild_backbone(theirs).at_size(32).network.state_dict()
    for name, value in after.model.state_dict().items():
        torch.testing.assert_close(value, resized[name], rtol=0, atol=1e-9)
    manifest = require(out, "pretrain")
    assert manifest.inputs[f"encoder {theirs.name}"] == manifest.config["init"]["fingerprint"] == theirs.fingerprint
    (owed,) = [item for item in after.provenance["licences"] if item["card"] == theirs.name]
    assert (owed["licence"], owed["non_commercial"]) == ("unknown", None)


def test_adapters_train_by_the_command_resume_to_the_same_bits_and_are_saved_as_plain_weights(
    corpus: Path, weights: Path, tmp_path: Path
) -> None:
    source = f"timm:test_vit?contract=training&rgb=by_name&file={weights}"
    method = Distill(teacher=f"timm:test_vit?contract=imagenet&file={weights}&{L2A}&size=32", hidden_dim=16)
    options = {**SHORT, "steps": 3, "init": source, "objective": method, "lr": 1e-2, "adapt": Lora(rank=2)}
    options["training"] = FitConfig(log_every=1, monitor_every=3, monitor_tiles=8, checkpoint_every=1)
    pretrain.main(corpus, tmp_path / "whole", **options)
    with pytest.raises(UserError, match=r"expected 3 steps within a time .*, got 1; the same command goes on"):
        pretrain.main(corpus, tmp_path / "again", max_time="00:00:00:00", **options)
    (checkpoint,) = (tmp_path / "again" / "checkpoints").iterdir()
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert any(name.endswith("qkv.a") for name in state)  # factors beside the trunk
    assert any(name.endswith("running_std") for name in state) and not any("teacher" in name for name in state)
    pretrain.main(corpus, tmp_path / "again", **options)
    encoder = load_encoder(tmp_path / "whole")
    assert encoder.fingerprint == load_encoder(tmp_path / "again").fingerprint
    assert encoder.preprocessing.bands[:3] == ("B01", "B02", "B03") and len(encoder.preprocessing.bands) == 12
    trunk = timm.create_model("test_vit", num_classes=0, in_chans=12, img_size=32).state_dict()
    assert set(encoder.model.state_dict()) == set(trunk)
    given = load(source, preprocessing=encoder.preprocessing)
    before = rebuild_backbone(given).at_size(32).network.state_dict()
    changed = {name for name, value in encoder.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {
        name
        for name in before
        if name.startswith("blocks.")
        and name.endswith("weight")
        and any(part in name for part in ("qkv", "proj", "fc"))
    }
    summary = require(tmp_path / "whole", "pretrain").summary
    assert summary["parameters"] == sum(value.numel() for value in before.values()) > 10 * summary["trained_parameters"]
    assert require(tmp_path / "whole", "pretrain").config["adapt"] == {
        "name": "Lora",
        "options": {
            "blocks": 0,
            "norms": False,
            "patches": False,
            "rank": 2,
            "alpha": 8.0,
            "targets": ["q", "k", "v", "proj", "fc1", "fc2"],
        },
    }


def test_a_foreign_teacher_teaches_by_the_command_and_is_recorded(corpus: Path, weights: Path, tmp_path: Path) -> None:
    teacher = f"timm:test_vit?contract=imagenet&file={weights}&{L2A}&size=32"
    method = Distill(teacher=teacher, hidden_dim=16)
    pretrain.main(corpus, tmp_path / "out", objective=method, model=Vit(patch_size=8, depth=1), **SHORT)
    manifest, after, theirs = require(tmp_path / "out", "pretrain"), load_encoder(tmp_path / "out"), load(teacher)
    assert manifest.inputs[f"teacher {theirs.name}"] == theirs.fingerprint
    assert manifest.config["options"]["teacher"] == teacher
    assert [item["non_commercial"] for item in after.provenance["licences"] if item["card"] == theirs.name] == [None]
    with pytest.raises(UserError, match="expected tiles of sensor sentinel2_l1c for the teacher, got sentinel2_l2a"):
        other = Distill(teacher=teacher.replace("sentinel2_l2a", "sentinel2_l1c"))
        pretrain.main(corpus, tmp_path / "no", objective=other, **SHORT)
    assert not (tmp_path / "no").exists()


def test_what_does_not_fit_is_refused_before_anything_is_written(corpus: Path, weights: Path, tmp_path: Path) -> None:
    rgb = f"timm:test_vit?contract=imagenet&file={weights}"
    fitted = f"timm:test_vit?contract=training&file={weights}"
    for arguments, words in (
        ({"init": rgb}, "expected data of sensor aerial_rgb, as .*, got sentinel2_l2a; train another encoder on these"),
        ({"init": fitted}, r"expected a choice for the bands B01, .* write \?rgb=tile"),
        (
            {"init": f"{rgb}&{L2A}", "bands": ["B02"]},
            "expected the bands B04, B03, B02 of .*, got B02; leave out --bands",
        ),
        ({"init": f"{rgb}&{L2A}", "model": ResNet()}, "expected the architecture of .*; leave out --model"),
        ({"init": rgb.replace("test_vit", "test_vit2")}, "expected weights of .*test_vit2.*, got"),
        ({"init": f"timm:test_vit?{L2A}"}, "expected a preprocessing contract"),
        (
            {"init": "torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO@random"},
            "expected data of sensor sentinel2_l1c, .* got sentinel2_l2a; train another encoder",
        ),
        ({"adapt": Frozen()}, "expected an encoder to go on from for adapt Frozen, got random weights"),
        ({"init": f"{fitted}&rgb=tile&size=33"}, "multiple of the patch"),
    ):
        with pytest.raises(UserError, match=words):
            pretrain.main(corpus, tmp_path / "no", **{**SHORT, **arguments})
    assert not (tmp_path / "no").exists()
    drawn = load("timm:test_vit@random?contract=imagenet")
    assert collect_licences(drawn.name, drawn.provenance) == []  # nothing is owed for random weights
