"""Foreign files: every tensor of the network comes from them, kernels reach bands by name, and nothing is claimed of others' files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from eo_ssl.encoder import ExternalEncoder, load_encoder
from eo_ssl.encoder.first_layer import SPREADS
from eo_ssl.encoder.foreign_weights import read_tensors
from eo_ssl.errors import UserError
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.models import seed_weights
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.reporting.leaderboard import format_markdown
from eo_ssl.sensors import Quantity
from planted import planted

S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
B8A_LAST = (*(band for band in S2 if band != "B8A"), "B8A")  # as TorchGeo's EuroSAT lists them
RESNET, VIT = "test_resnet", "test_vit"


def contract(bands: tuple[str, ...] = S2, size_px: int = 32, sensor: str = "sentinel2_l1c") -> Preprocessing:
    aerial = sensor == "aerial_rgb"
    quantity = Quantity.DN if aerial else Quantity.TOA_REFLECTANCE
    return Preprocessing(
        sensor=sensor,
        quantity=quantity,
        bands=bands,
        convert=(),
        range=(0.0, 255.0) if aerial else quantity.plausible,
        clip=None,
        mean=tuple(0.1 + 0.01 * ("RGB" if aerial else S2).index(band) for band in bands),
        std=(0.05,) * len(bands),
        size_px=size_px,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )


def network(name: str, seed: int = 5, **options: Any) -> Any:
    with seed_weights(seed):
        return timm.create_model(name, pretrained=False, **options).eval()


def weights(name: str, seed: int = 5, **options: Any) -> dict[str, Tensor]:
    return dict(network(name, seed, **options).state_dict())


def load(source: str, **options: Any) -> ExternalEncoder:
    encoder = load_encoder(source, **options)
    assert isinstance(encoder, ExternalEncoder)
    return encoder


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


WRAPPED = {
    "": lambda s: s,
    "backbone.": lambda s: prefixed("backbone.", s),
    "teacher.backbone.": lambda s: {"teacher": prefixed("backbone.", s) | {"head.mlp.0.weight": torch.zeros(2)}},
    "state_dict.model.encoder.": lambda s: {"state_dict": prefixed("model.encoder.", s), "epoch": 3},
    "model.module.": lambda s: {"model": prefixed("module.", s), "optimizer": {"state": {0: {"m": torch.ones(1)}}}},
    "state_dict.module.encoder_q.": lambda s: {
        "state_dict": prefixed("module.encoder_q.", s) | {"module.queue": torch.zeros(3)}
    },
    "_orig_mod.": lambda s: prefixed("_orig_mod.", s),
}


@pytest.mark.parametrize("prefix", WRAPPED)
@pytest.mark.parametrize("name", [RESNET, VIT])
def test_wrapped_weights_give_the_features_of_the_network_they_were_saved_from(
    name: str, prefix: str, tmp_path: Path
) -> None:
    file, state = tmp_path / "weights.pth", weights(name, num_classes=7)
    torch.save(WRAPPED[prefix](state), file)
    encoder = load(f"timm:{name}?file={file}", preprocessing=contract(("R", "G", "B"), 160, "aerial_rgb"))
    theirs = network(name, num_classes=7)
    theirs.reset_classifier(0)
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(encoder.features(x), theirs(x))
    said = encoder.provenance["file"]
    assert said.get("prefix", "") == prefix and any(key.startswith(("head", "fc")) for key in said["left_over"])


def test_files_of_other_networks_are_refused_with_counts_and_names(tmp_path: Path) -> None:
    file, state = tmp_path / "weights.pth", weights(VIT, num_classes=0)
    half = {key: value for key, value in state.items() if not key.startswith("blocks.3.")}
    deeper = state | prefixed("blocks.9.", {"norm1.weight": torch.zeros(2)})
    unknown = prefixed("my_net.", state)
    broken = {**state, "norm.weight": torch.full_like(state["norm.weight"], torch.nan)}
    for content, words in (
        (half, r"without blocks\.3\.\S+, .* \(12 of \d+ missing\) and with nothing"),
        (deeper, r"\(0 of \d+ missing\) and with blocks\.9\.norm1\.weight \(1 unexpected\)"),
        (unknown, r"missing\) and with my_net\..* unexpected\); .*name what stands before its keys by the option keys"),
        (weights(RESNET), r"got a file without cls_token"),
        (broken, r"expected finite weights in weights\.pth, got NaN or infinity in norm\.weight"),
        ({"teacher": state, "student": state}, r"got 2, below teacher\., student\.; name .* \?keys=teacher\."),
        ({"epoch": 3}, r"expected tensors in .*, got none"),
        ([1, 2], r"expected a state dict in .*, got list"),
    ):
        torch.save(content, file)
        with pytest.raises(UserError, match=words):
            load(f"timm:{VIT}?contract=imagenet&file={file}")
    torch.save({"teacher": weights(VIT, 6), "student": state}, file)
    torch.save(unknown, tmp_path / "unknown.pth")
    chosen = [f"{file}&keys=student", f"{tmp_path / 'unknown.pth'}&keys=my_net."]
    assert len({load(f"timm:{VIT}?contract=imagenet&file={one}").fingerprint for one in chosen}) == 1


def test_two_loads_of_a_file_are_one_encoder_whatever_the_seed(tmp_path: Path) -> None:
    torch.save({"teacher": prefixed("backbone.", weights(VIT))}, tmp_path / "dino.pth")
    source = f"timm:{VIT}?contract=imagenet&file={tmp_path / 'dino.pth'}"
    assert load(source, seed=1).fingerprint == load(source, seed=2).fingerprint


@pytest.mark.parametrize("name", [VIT, "vit_tiny_patch16_224"])
def test_position_codes_are_taken_as_they_are_and_interpolated_once(name: str, tmp_path: Path) -> None:
    # timm brings codes of another grid to the grid of its own configuration first.
    file = tmp_path / "small.safetensors"
    safetensors.torch.save_file(weights(name, img_size=64, num_classes=0), file)
    own, x = contract(("R", "G", "B"), 64, "aerial_rgb"), torch.randn(2, 3, 64, 64)
    at_its_size = load(f"timm:{name}?file={file}", preprocessing=own)
    with torch.inference_mode():
        assert torch.equal(at_its_size.features(x), network(name, img_size=64, num_classes=0)(x))
    assert at_its_size.provenance["trained_px"] == 64
    larger = load(f"timm:{name}?file={file}&size=96", preprocessing=own)
    theirs = network(name, img_size=64, num_classes=0)
    theirs.set_input_size(img_size=(96, 96))
    x = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(larger.features(x), theirs(x))
    torch.save(weights(name, patch_size=8, img_size=64, num_classes=0), tmp_path / "patch.pth")
    with pytest.raises(UserError, match=r"patch_embed\.proj\.weight is \[\d+, 3, 8, 8\] instead of \[\d+, 3, 16, 16\]"):
        load(f"timm:{name}?file={tmp_path / 'patch.pth'}", preprocessing=own)


def kernels(encoder: ExternalEncoder) -> dict[str, Tensor]:
    first = encoder.model.get_parameter(f"{encoder.model.pretrained_cfg['first_conv']}.weight")
    return {band: first[:, i] for i, band in enumerate(encoder.preprocessing.bands)}


@pytest.mark.parametrize("spread", SPREADS)
def test_kernels_of_colours_reach_bands_by_name(spread: str, tmp_path: Path) -> None:
    file, state = tmp_path / "rgb.pth", weights(RESNET)
    torch.save(state, file)
    one, other = (load(f"timm:{RESNET}?file={file}&rgb={spread}", preprocessing=contract(o)) for o in (S2, B8A_LAST))
    red, green, blue = state[f"{one.model.pretrained_cfg['first_conv']}.weight"].unbind(dim=1)
    nothing, mean = torch.zeros_like(red), (red + green + blue) / 3
    expected = {
        "tile": {band: (red, green, blue)[i % 3] * 3 / 13 for i, band in enumerate(S2)},
        "mean": dict.fromkeys(S2, mean * 3 / 13),
        "by_name": dict.fromkeys(S2, nothing) | {"B04": red, "B03": green, "B02": blue},
    }[spread]
    for encoder in (one, other):
        for band, kernel in kernels(encoder).items():
            torch.testing.assert_close(kernel, expected[band])
    image = torch.rand(4, 13, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.3
    tags = {"bands": S2, "quantity": "toa_reflectance", "sensor": "sentinel2_l1c"}
    torch.testing.assert_close(one(image, **tags), other(image, **tags), rtol=1e-4, atol=1e-5)
    assert f"rgb={spread}" in one.provenance["remark"] and one.provenance["first_layer"] in one.provenance["remark"]


def test_kernels_of_colours_without_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, state = tmp_path / "rgb.pth", weights(RESNET)
    torch.save(state, file)
    source = f"timm:{RESNET}?file={file}"
    with pytest.raises(UserError, match=r"expected a choice for the bands B01, .*\?rgb=tile, \?rgb=mean or \?rgb=by_n"):
        load(source, preprocessing=contract())
    blue_first = contract(("B02", "B03", "B04"))
    with pytest.raises(UserError, match=r"or \?bands=B02,B03,B04 for a file that was trained on these bands"):
        load(source, preprocessing=blue_first)
    with pytest.raises(
        UserError, match=r"expected bands for red, green and blue for rgb=by_name .* without red, green"
    ):
        load(f"{source}&rgb=by_name", preprocessing=contract(("B02", "B8A", "B11")))
    with pytest.raises(UserError, match="did you mean 'mean'"):
        load(f"{source}&rgb=means", preprocessing=contract())
    with pytest.raises(UserError, match="expected rgb or bands"):
        load(f"{source}&rgb=mean&bands=B02,B03,B04", preprocessing=blue_first)
    with pytest.raises(
        UserError, match=r"3 channels of .* named by the contract's bands B02, B03, B04, got bands=B02,B03"
    ):
        load(f"{source}&bands=B02,B03", preprocessing=blue_first)
    layer = f"{network(RESNET).pretrained_cfg['first_conv']}.weight"
    taken = kernels(load(f"{source}&bands=B04,B02,B03", preprocessing=blue_first))
    assert all(torch.equal(taken[band], state[layer][:, i]) for i, band in enumerate(("B04", "B02", "B03")))
    # Published weights are of photographs: red, green and blue are found by name in any order.
    monkeypatch.setattr("eo_ssl.encoder.timm_weights._fetch", lambda *_, **__: file)
    published = load(f"timm:{RESNET}.r160_in1k", preprocessing=blue_first)
    assert all(torch.equal(kernels(published)[b], state[layer][:, i]) for i, b in enumerate(("B04", "B03", "B02")))
    assert published.provenance["licence"] == "apache-2.0" and "remark" not in published.provenance
    with pytest.raises(UserError, match=r"got none; write \?rgb=tile, \?rgb=mean or \?rgb=by_name$"):
        load(f"timm:{RESNET}.r160_in1k", preprocessing=contract(("B08", "B03", "B02")))


def test_options_without_an_effect_are_refused(tmp_path: Path) -> None:
    torch.save(weights(RESNET), tmp_path / "rgb.pth")
    own = contract(("B04", "B03", "B02"))
    for source, words in (
        (f"timm:{RESNET}@random?rgb=mean", "expected no option rgb for .*; random weights come from no file"),
        (
            f"timm:{RESNET}?file={tmp_path / 'rgb.pth'}&sensor=x&white=1",
            "no option sensor, white .*the contract is given",
        ),
        ("remoteclip:ViT-B-32@random?rgb=mean", "expected no option rgb"),
        ("remoteclip:ViT-B-32@random?white=1", "expected no option white"),
    ):
        with pytest.raises(UserError, match=words):
            load(source, preprocessing=own)


def test_a_file_of_ones_own_is_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.pth"
    torch.save(weights(RESNET, in_chans=13), file)
    encoder = load(f"timm:{RESNET}.r160_in1k?file={file}", preprocessing=contract())
    said = encoder.provenance
    assert "licence" not in said and said["weights"] == "mine.pth" and len(said["sha256"]) == 64
    assert said["first_layer"].startswith("as in the file") and "remark" not in said
    with pytest.raises(UserError, match=r"expected one kernel for each of 4 bands \(B02, .*\), or three, .* got 13"):
        load(f"timm:{RESNET}?file={file}", preprocessing=contract(S2[1:5]))


def test_a_size_is_chosen_before_the_patch_is_checked() -> None:
    own = contract(("R", "G", "B"), 40, "aerial_rgb")
    with pytest.raises(UserError, match="got 40 px; choose 32 or 48"):
        load(f"timm:{VIT}@random", preprocessing=own)
    for size in (32, 48):  # the advice works
        assert load(f"timm:{VIT}@random?size={size}", preprocessing=own).preprocessing.size_px == size
    clip = load("remoteclip:ViT-B-32@random?size=64", preprocessing=own)
    assert clip.preprocessing.size_px == 64 and clip.features(torch.zeros(1, 3, 64, 64)).shape == (1, 512)
    wide = contract(("B04", "B03", "B02"), 40)
    torchgeo = load(
        "torchgeo:ViTSmall16_Weights.SENTINEL1_GRD_CLOSP@random?size=32",
        preprocessing=replace(wide, bands=wide.bands[:2], mean=wide.mean[:2], std=wide.std[:2]),
    )
    assert torchgeo.preprocessing.size_px == 32


def test_a_contract_of_ones_own_names_published_channels_in_their_order() -> None:
    source = "torchgeo:ResNet18_Weights.SENTINEL2_ALL_MOCO@random"
    assert load(source, preprocessing=contract(S2)).preprocessing.bands == S2
    with pytest.raises(UserError, match=r"expected the bands B01, .*B8A, B09.* in this order, .*, got B01, .*B12, B8A"):
        load(source, preprocessing=contract(B8A_LAST))


def test_what_was_done_to_the_first_layer_stands_in_the_leaderboard(rng: np.random.Generator, tmp_path: Path) -> None:
    torch.save(weights(RESNET), tmp_path / "rgb.pth")
    torch.save(weights(RESNET, in_chans=4), tmp_path / "four.pth")
    task = planted(rng, 40)
    names = [
        f"timm:{RESNET}?contract=training&rgb=mean&file={tmp_path / 'rgb.pth'}",
        f"timm:{RESNET}?contract=training&file={tmp_path / 'four.pth'}",
    ]
    settings = Settings.of(["knn5"], shots=[0], draws=1, seed=0)
    rows, comparisons = judge(task, load_candidates(names), settings, tmp_path / "out", computing=Computing())
    page = format_markdown(rows, comparisons)
    assert (
        "first layer: the mean of the kernels of red, green and blue on each of 4 bands, times 3/4 (rgb=mean)" in page
    )
    assert "its channels taken for B02, B03, B04, B08 in this order (option bands)" in page


def test_features_of_a_file_do_not_follow_the_order_of_planes(rng: np.random.Generator, tmp_path: Path) -> None:
    torch.save(weights(RESNET, in_chans=4), tmp_path / "four.pth")
    task = planted(rng, 40)
    (source,) = task.sources
    turned = replace(source, bands=source.bands[::-1], x=np.ascontiguousarray(source.x[:, ::-1]))
    (one,) = load_candidates([f"timm:{RESNET}?contract=training&file={tmp_path / 'four.pth'}"])
    found = [one.features(replace(task, sources=(images,)))[0] for images in (source, turned)]
    assert np.array_equal(found[0], found[1], equal_nan=True)


def test_only_tensors_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (print, ("executed",))

    torch.save({"state_dict": {"x": Bomb()}}, tmp_path / "bomb.pth")
    nested: dict[str, Any] = {"x": torch.zeros(1)}
    for _ in range(50):
        nested = {"model": nested}
    torch.save(nested, tmp_path / "deep.pth")
    (tmp_path / "half.safetensors").write_bytes(safetensors.torch.save({"x": torch.zeros(99)})[:100])
    for name, words in (("bomb.pth", "weights_only"), ("deep.pth", "got none"), ("half.safetensors", "Safetensor")):
        with pytest.raises(UserError, match=words):
            read_tensors(tmp_path / name)
    assert "executed" not in capsys.readouterr().out
