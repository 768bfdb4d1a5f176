"""RemoteCLIP's image tower: a tower of CLIP written from its paper is the oracle, with random weights under OpenCLIP's names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from eo_ssl.encoder import ExternalEncoder, load_encoder
from eo_ssl.errors import UserError


def load(source: str) -> ExternalEncoder:
    encoder = load_encoder(source)
    assert isinstance(encoder, ExternalEncoder)
    return encoder


def clip_tower(rng: torch.Generator, *, width: int, layers: int, patch: int, out: int) -> dict[str, Tensor]:
    """State dict of an image tower under OpenCLIP's names, random."""

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng) * 0.05

    state = {
        "visual.class_embedding": draw(width),
        "visual.positional_embedding": draw((224 // patch) ** 2 + 1, width),
        "visual.proj": draw(width, out),
        "visual.conv1.weight": draw(width, 3, patch, patch),
        "logit_scale": draw(),
        "positional_embedding": draw(77, 16),
    }
    for norm in ("ln_pre", "ln_post"):
        state |= {f"visual.{norm}.weight": 1 + draw(width), f"visual.{norm}.bias": draw(width)}
    for i in range(layers):
        base = f"visual.transformer.resblocks.{i}."
        for norm in ("ln_1", "ln_2"):
            state |= {f"{base}{norm}.weight": 1 + draw(width), f"{base}{norm}.bias": draw(width)}
        state |= {
            f"{base}attn.in_proj_weight": draw(3 * width, width),
            f"{base}attn.in_proj_bias": draw(3 * width),
            f"{base}attn.out_proj.weight": draw(width, width),
            f"{base}attn.out_proj.bias": draw(width),
            f"{base}mlp.c_fc.weight": draw(4 * width, width),
            f"{base}mlp.c_fc.bias": draw(4 * width),
            f"{base}mlp.c_proj.weight": draw(width, 4 * width),
            f"{base}mlp.c_proj.bias": draw(width),
        }
    return state


def clip_image_features(s: dict[str, Tensor], x: Tensor, *, heads: int, layers: int) -> Tensor:
    """Image tower of CLIP, written from its paper (Radford et al. 2021, section 2.4), by PyTorch's attention."""
    v = {key.removeprefix("visual."): value for key, value in s.items() if key.startswith("visual.")}
    width = len(v["class_embedding"])

    def norm(name: str, t: Tensor) -> Tensor:
        return functional.layer_norm(t, (width,), v[f"{name}.weight"], v[f"{name}.bias"])

    patches = functional.conv2d(x, v["conv1.weight"], stride=v["conv1.weight"].shape[-1]).flatten(2).transpose(1, 2)
    t = torch.cat([v["class_embedding"].expand(len(x), 1, -1), patches], dim=1) + v["positional_embedding"]
    t = norm("ln_pre", t).transpose(0, 1)  # [N, B, D]
    for i in range(layers):
        b = f"transformer.resblocks.{i}."
        n = norm(b + "ln_1", t)
        attended, _ = functional.multi_head_attention_forward(
            n,
            n,
            n,
            width,
            heads,
            v[b + "attn.in_proj_weight"],
            v[b + "attn.in_proj_bias"],
            None,
            None,
            False,
            0.0,
            v[b + "attn.out_proj.weight"],
            v[b + "attn.out_proj.bias"],
            training=False,
            need_weights=False,
        )
        t = t + attended
        hidden = functional.gelu(
            functional.linear(norm(b + "ln_2", t), v[b + "mlp.c_fc.weight"], v[b + "mlp.c_fc.bias"])
        )
        t = t + functional.linear(hidden, v[b + "mlp.c_proj.weight"], v[b + "mlp.c_proj.bias"])
    return norm("ln_post", t[0]) @ v["proj"]


def test_remoteclips_tower_equals_clip_from_its_paper(tmp_path: Path) -> None:
    state = clip_tower(torch.Generator().manual_seed(6), width=768, layers=12, patch=32, out=512)
    file = tmp_path / "RemoteCLIP-ViT-B-32.pt"
    torch.save(state, file)
    encoder = load(f"remoteclip:{file}")
    p = encoder.preprocessing
    assert (encoder.name, encoder.dim, p.size_px, p.interpolation) == (
        "remoteclip:RemoteCLIP-ViT-B-32",
        512,
        224,
        "bicubic",
    )
    torch.testing.assert_close(torch.tensor(p.mean) / 255, torch.tensor([0.4815, 0.4578, 0.4082]), rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.tensor(p.std) / 255, torch.tensor([0.2686, 0.2613, 0.2758]), rtol=0, atol=1e-4)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        expected = clip_image_features(state, x, heads=12, layers=12)
        torch.testing.assert_close(encoder.features(x), expected, rtol=1e-3, atol=1e-3)
    assert float(expected.std()) > 0.1
    sensor = load(f"remoteclip:{file}?sensor=sentinel2_l2a&white=0.2").preprocessing
    assert sensor.bands == ("B04", "B03", "B02") and sensor.quantity.value == "boa_reflectance"


LAYERS = {1: (3, 64), 2: (4, 128), 3: (6, 256), 4: (3, 512)}  # blocks and width of each stage of CLIP's ResNet-50


def clip_resnet(rng: torch.Generator) -> dict[str, Tensor]:
    """State dict of CLIP's ResNet-50 under OpenCLIP's names, random."""
    state: dict[str, Tensor] = {}

    def convolution(name: str, out: int, channels: int, side: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, channels, side, side, generator=rng) / (channels * side**2) ** 0.5

    def norm(name: str, width: int) -> None:
        for key in ("weight", "running_var"):
            state[f"{name}.{key}"] = 1 + 0.1 * torch.rand(width, generator=rng)
        for key in ("bias", "running_mean"):
            state[f"{name}.{key}"] = 0.1 * torch.randn(width, generator=rng)
        state[f"{name}.num_batches_tracked"] = torch.tensor(0)

    for i, (channels, out) in enumerate(((3, 32), (32, 32), (32, 64)), 1):
        convolution(f"visual.conv{i}", out, channels, 3)
        norm(f"visual.bn{i}", out)
    channels = 64
    for stage, (blocks, width) in LAYERS.items():
        for block in range(blocks):
            base = f"visual.layer{stage}.{block}."
            for i, (entering, leaving, side) in enumerate(
                ((channels, width, 1), (width, width, 3), (width, 4 * width, 1)), 1
            ):
                convolution(f"{base}conv{i}", leaving, entering, side)
                norm(f"{base}bn{i}", leaving)
            if block == 0:
                convolution(f"{base}downsample.0", 4 * width, channels, 1)
                norm(f"{base}downsample.1", 4 * width)
            channels = 4 * width
    state["visual.attnpool.positional_embedding"] = 0.02 * torch.randn(50, 2048, generator=rng)
    for key, out in (("q", 2048), ("k", 2048), ("v", 2048), ("c", 1024)):
        state[f"visual.attnpool.{key}_proj.weight"] = torch.randn(out, 2048, generator=rng) / 45
        state[f"visual.attnpool.{key}_proj.bias"] = 0.1 * torch.randn(out, generator=rng)
    return state


def clip_resnet_features(s: dict[str, Tensor], x: Tensor) -> Tensor:
    """CLIP's ResNet-50 from its paper: three-layer stem, average pooling instead of strides, attention over the last map."""
    v = {key.removeprefix("visual."): value for key, value in s.items()}

    def step(t: Tensor, conv: str, bn: str, **options: int) -> Tensor:
        t = functional.conv2d(t, v[f"{conv}.weight"], **options)  # type: ignore[arg-type]
        return functional.batch_norm(
            t, v[f"{bn}.running_mean"], v[f"{bn}.running_var"], v[f"{bn}.weight"], v[f"{bn}.bias"]
        )

    t = step(x, "conv1", "bn1", stride=2, padding=1).relu()
    t = step(t, "conv2", "bn2", padding=1).relu()
    t = functional.avg_pool2d(step(t, "conv3", "bn3", padding=1).relu(), 2)
    for stage, (blocks, _) in LAYERS.items():
        for block in range(blocks):
            base, stride = f"layer{stage}.{block}.", 2 if stage > 1 and block == 0 else 1
            main = step(step(t, f"{base}conv1", f"{base}bn1").relu(), f"{base}conv2", f"{base}bn2", padding=1).relu()
            main = step(functional.avg_pool2d(main, stride), f"{base}conv3", f"{base}bn3")
            if block == 0:
                t = step(functional.avg_pool2d(t, stride), f"{base}downsample.0", f"{base}downsample.1")
            t = (main + t).relu()
    rows = t.flatten(2).permute(2, 0, 1)  # [N, B, 2048]
    rows = torch.cat([rows.mean(dim=0, keepdim=True), rows]) + v["attnpool.positional_embedding"][:, None]
    weights = {key: v[f"attnpool.{key}_proj.weight"] for key in "qkvc"}
    biases = torch.cat([v[f"attnpool.{key}_proj.bias"] for key in "qkv"])
    pooled, _ = functional.multi_head_attention_forward(
        rows[:1],
        rows,
        rows,
        2048,
        32,
        None,
        biases,
        None,
        None,
        False,
        0.0,
        weights["c"],
        v["attnpool.c_proj.bias"],
        training=False,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=weights["q"],
        k_proj_weight=weights["k"],
        v_proj_weight=weights["v"],
    )
    return pooled[0]


def test_remoteclips_resnet_equals_clip_from_its_paper(tmp_path: Path) -> None:
    state = clip_resnet(torch.Generator().manual_seed(2))
    torch.save(state, tmp_path / "RemoteCLIP-RN50.pt")
    encoder = load(f"remoteclip:{tmp_path / 'RemoteCLIP-RN50.pt'}")
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = clip_resnet_features(state, x)
        torch.testing.assert_close(encoder.features(x), expected, rtol=1e-3, atol=1e-3)
    assert encoder.dim == 1024 and encoder.pooling == "attention" and float(expected.std()) > 0.1


def test_remoteclip_refusals(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    with pytest.raises(UserError, match="expected a file of RemoteCLIP's weights"):
        load(f"remoteclip:{file}")
    torch.save({"encoder.weight": torch.zeros(2)}, file)
    with pytest.raises(UserError, match=r"expected keys that begin with visual\."):
        load(f"remoteclip:{file}")
    torch.save({"visual.class_embedding": torch.zeros(768), "visual.conv1.weight": torch.zeros(768, 3, 32, 32)}, file)
    with pytest.raises(UserError, match=r"got a file without .* of 153 missing"):
        load(f"remoteclip:{file}")
    torch.save({"visual.class_embedding": torch.zeros(768), "visual.conv1.weight": torch.zeros(768, 3, 16, 16)}, file)
    with pytest.raises(UserError, match="got another; these three are published"):
        load(f"remoteclip:{file}")
    with pytest.raises(UserError, match="expected a tower out of ViT-B-32"):
        load("remoteclip:ViT-B-16@random")
