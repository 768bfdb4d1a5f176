"""Open a bundle where eo_ssl is not installed: timm, TorchGeo, onnxruntime, TerraTorch and rslearn, against the parity file."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

try:
    from torchgeo.tasks import Classification as ClassificationTask
    from torchgeo.tasks import SemanticSegmentation as SemanticSegmentationTask
except ModuleNotFoundError:  # TorchGeo 0.8 and 0.9
    from torchgeo.trainers import ClassificationTask, SemanticSegmentationTask

TOLERANCE = 1e-5


class Bundle:
    """What the files of a bundle say, read without its library."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = json.loads((folder / "preprocess.json").read_text())
        self.pooling = self.content["pooling"]
        with safetensors.safe_open(folder / "parity.safetensors", framework="pt") as file:
            self.parity = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def pooled(self, model: Any, x: Tensor) -> Tensor:
        """Features of a timm model: the class token or the mean of the others."""
        tokens = model.eval().forward_features(x)
        return tokens[:, 0] if self.pooling == "cls" else tokens[:, model.num_prefix_tokens :].mean(dim=1)

    def normed(self, maps: Tensor) -> Tensor:
        """Last norm over the channels of [n, D, h, w], which `features_only` leaves out, and the mean over positions."""
        weights = safetensors.torch.load_file(self.folder / "timm" / "model.safetensors")
        tokens = maps.flatten(2).transpose(1, 2)
        layer = torch.nn.functional.layer_norm(
            tokens, tokens.shape[-1:], weights["norm.weight"], weights["norm.bias"], 1e-6
        )
        return layer.mean(dim=1)


def through_timm(bundle: Bundle) -> Tensor:
    import timm

    model = timm.create_model(f"local-dir:{bundle.folder / 'timm'}", pretrained=True)
    return model.eval()(bundle.parity["native.input"])


def through_onnx(bundle: Bundle) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(bundle.folder / "onnx" / "encoder.onnx"), providers=["CPUExecutionProvider"]
    )
    return torch.from_numpy(session.run(["features"], {"image": bundle.parity["native.input"].numpy()})[0])


def through_classification(bundle: Bundle) -> Tensor:
    x, name = bundle.parity["torchgeo.input"], bundle.content["configurations"]["torchgeo"]["model"]
    path = str(bundle.folder / "torchgeo_classification.ckpt")
    return bundle.pooled(ClassificationTask(name, weights=path, in_channels=x.shape[1], num_classes=10).model, x)


def through_segmentation(bundle: Bundle) -> Tensor:
    x, name = bundle.parity["torchgeo.input"], bundle.content["configurations"]["torchgeo"]["model"]
    path = str(bundle.folder / "torchgeo_segmentation_dpt.ckpt")
    task = SemanticSegmentationTask("dpt", f"tu-{name}", weights=path, in_channels=x.shape[1], num_classes=10)
    return bundle.pooled(task.model.encoder.model, x)


def through_enum(bundle: Bundle) -> Tensor:
    sys.path.insert(0, str(bundle.folder))
    from weights import WEIGHTS  # type: ignore[import-not-found]

    x = WEIGHTS.transforms(bundle.parity["images"])  # from physical values, by the bundle's own transforms
    name = bundle.content["configurations"]["torchgeo"]["model"]
    return bundle.pooled(ClassificationTask(name, weights=WEIGHTS, in_channels=x.shape[1], num_classes=10).model, x)


def through_terratorch(bundle: Bundle) -> Tensor:
    from terratorch.registry import BACKBONE_REGISTRY

    backbone = BACKBONE_REGISTRY.build(f"timm_local-dir:{bundle.folder / 'timm'}", pretrained=True).eval()
    maps = backbone(bundle.parity["native.input"])
    assert len(maps) == len(backbone.out_channels)
    return bundle.normed(maps[-1])


def through_terratorch_segmenter(bundle: Bundle) -> Tensor:
    from terratorch.models import EncoderDecoderFactory

    model = EncoderDecoderFactory().build_model(
        task="segmentation",
        backbone=f"timm_local-dir:{bundle.folder / 'timm'}",
        backbone_pretrained=True,
        decoder="FCNDecoder",
        num_classes=3,
    )
    x = bundle.parity["native.input"]
    assert model.eval()(x).output.shape == (x.shape[0], 3, *x.shape[2:])
    return bundle.normed(model.encoder(x)[-1])


def through_rslearn(bundle: Bundle) -> Tensor:
    import timm
    from rslearn.models.component import FeatureExtractor, FeatureMaps
    from rslearn.train.model_context import ModelContext, RasterImage

    class TimmFolder(FeatureExtractor):
        """A folder of timm as rslearn's feature extractor: one map, of the last block and its norm."""

        def __init__(self, folder: str) -> None:
            super().__init__()
            self.model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)

        def get_backbone_channels(self) -> list[tuple[int, int]]:
            return [(self.model.patch_embed.patch_size[0], self.model.embed_dim)]

        def forward(self, context: ModelContext) -> FeatureMaps:
            x = torch.stack([one["image"].single_ts_to_chw_tensor() for one in context.inputs])
            last = len(self.model.blocks) - 1
            return FeatureMaps(self.model.forward_intermediates(x, indices=[last], norm=True, intermediates_only=True))

    extractor = TimmFolder(str(bundle.folder / "timm")).eval()
    images = [{"image": RasterImage(one[:, None])} for one in bundle.parity["native.input"]]
    (found,) = extractor(ModelContext(inputs=images, metadatas=[])).feature_maps
    stride, channels = extractor.get_backbone_channels()[0]
    assert found.shape[1:] == (channels, *(side // stride for side in bundle.parity["native.input"].shape[2:]))
    return found.mean(dim=(2, 3))


def routes(bundle: Bundle) -> dict[str, tuple[Callable[[Bundle], Tensor], str]]:
    """Name -> function, features of the parity file."""
    found: dict[str, tuple[Callable[[Bundle], Tensor], str]] = {"timm local-dir": (through_timm, "native")}
    if (bundle.folder / "onnx" / "encoder.onnx").exists():
        found["onnxruntime"] = (through_onnx, "native")
    if "torchgeo" in bundle.content["configurations"]:
        found["torchgeo ClassificationTask"] = (through_classification, "torchgeo")
        found["torchgeo SemanticSegmentationTask (dpt)"] = (through_segmentation, "torchgeo")
        found["torchgeo WeightsEnum with its transforms"] = (through_enum, "torchgeo")
    if bundle.pooling == "mean":  # maps hold no class token
        found["terratorch BACKBONE_REGISTRY"] = (through_terratorch, "native")
        found["terratorch EncoderDecoderFactory"] = (through_terratorch_segmenter, "native")
        found["rslearn FeatureExtractor"] = (through_rslearn, "native")
    return found


def main(folder: Path) -> int:
    if importlib.util.find_spec("eo_ssl") is not None:
        print("eo_ssl can be imported here, so nothing would be proved")
        return 1
    packages = ("torch", "timm", "torchgeo", "onnxruntime", "terratorch", "rslearn")
    print("without eo_ssl;", ", ".join(f"{name} {version(name)}" for name in packages))
    bundle, failed = Bundle(folder), 0
    for name, (route, configuration) in routes(bundle).items():
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            got = route(bundle)
        wanted = bundle.parity[f"{configuration}.features"]
        passed = got.shape == wanted.shape and torch.allclose(got, wanted, atol=TOLERANCE, rtol=0)
        failed += not passed
        difference = float((got - wanted).abs().max()) if got.shape == wanted.shape else float("nan")
        print(f"{name:<42} {difference:.1e}  {'passed' if passed else 'FAILED'}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
