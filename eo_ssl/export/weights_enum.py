"""The encoder as a bare ``.pth`` with a ``WeightsEnum`` beside it, as TorchGeo publishes weights."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from eo_ssl.encoder import TrainedEncoder
from eo_ssl.errors import UserError
from eo_ssl.export import standalone
from eo_ssl.export.torchgeo_checkpoints import get_weights, pool_features, to_bytes

WEIGHTS_FILE = "weights.py"
_ENUM = '''

HERE = Path(__file__).resolve().parent
CONTRACT = read_contract(HERE, "torchgeo")


class {enum}(WeightsEnum):  # type: ignore[misc]
    """Weights of {model}, see README.md."""

    {member} = Weights(
        url=(HERE / {file!r}).as_uri(),
        transforms=make_transforms(CONTRACT),
        meta={meta},
    )

    def get_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the state dict, read from the file beside this one after a look at its checksum."""
        data = (HERE / {file!r}).read_bytes()
        if hashlib.sha256(data).hexdigest()[:8] != {sha8!r}:
            raise RuntimeError("expected {file} as it was exported, got other bytes; fetch the bundle again")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


WEIGHTS = {enum}.{member}


def samples(quantity: str, *, scale: float, offset: float = 0.0) -> SampleTransforms:
    """Return the transform of TorchGeo samples or batches of ``quantity`` that store (physical value / scale) - offset.

    Raises:
        ValueError: another quantity than that of training.
    """
    if quantity != CONTRACT["quantity"]:
        raise ValueError(
            f"expected {{CONTRACT['quantity']}}, got {{quantity}}; take an encoder that was trained on {{quantity}}"
        )
    return SampleTransforms(WEIGHTS.transforms, scale=scale, offset=offset)


def register() -> None:
    """Let TorchGeo find the weights by the string ``"{enum}.{member}"``."""
    from torchgeo.models import api

    api._model_weights["{model}_eo_ssl"] = {enum}
'''


def make_weights_files(encoder: TrainedEncoder, meta: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the ``.pth``, named with 8 letters of its sha256, and ``weights.py``, by their path in the bundle.

    Args:
        encoder: the configuration that TorchGeo can name.
        meta: `describe_weights`, and the method's name under ``ssl_method``.
    """
    data = to_bytes(get_weights(encoder))
    sha8 = hashlib.sha256(data).hexdigest()[:8]
    file = f"{_slug(encoder.name)}-{sha8}.pth"
    enum, member = name_enum(encoder, str(meta["ssl_method"]))
    head = Path(standalone.__file__).read_text(encoding="utf-8")
    head = head.replace("import json\n", "import hashlib\nimport io\nimport json\n", 1)
    head = head.replace(
        "from torchvision.transforms import v2\n",
        "from torchvision.models._api import Weights, WeightsEnum\nfrom torchvision.transforms import v2\n",
        1,
    )
    body = _ENUM.format(
        enum=enum, member=member, model=encoder.architecture.model.name, file=file, sha8=sha8, meta=_literal(meta)
    )
    return {file: data, WEIGHTS_FILE: (head + body).encode()}


def name_enum(encoder: TrainedEncoder, method: str) -> tuple[str, str]:
    """Return class and member of the enumeration: architecture, sensor and level, number of bands, method."""
    model = encoder.architecture.model
    words = re.fullmatch(r"vit_([a-z]+)_patch(\d+)_224", model.name)
    variant = f"{words[1].capitalize()}{words[2]}" if words else _slug(model.name.removeprefix(model.family))
    contract = encoder.preprocessing
    member = f"{contract.sensor}_{contract.final_quantity.value}_{len(contract.bands)}b_{method}"
    return f"{model.short}{variant}_EoSsl_Weights", re.sub(r"\W+", "_", member, flags=re.ASCII).upper()


def describe_weights(
    encoder: TrainedEncoder, *, dataset: str, method: str, publication: str, repo: str
) -> dict[str, Any]:
    """Return TorchGeo's keys of a weight's metadata, exactly as it spells them, and ours."""
    contract, options = encoder.preprocessing, encoder.architecture.timm_options
    sizes = {"patch_size": options["patch_size"]} if "patch_size" in options else {}
    return {
        "dataset": dataset,
        "in_chans": len(contract.bands),
        "model": encoder.architecture.model.name,
        "publication": publication,
        "repo": repo,
        "ssl_method": method,
        "bands": list(contract.bands),
        "normalization": (
            f"z-score of {contract.final_quantity.value} per band: mean and std in preprocess.json,"
            " applied by transforms"
        ),
        "unit": contract.quantity.unit,
        "quantity": contract.quantity.value,
        "level": contract.sensor,
        "processing_baseline": "any: offset and scale of the product are applied before, as the quantity says",
        "gsd": list(contract.gsd_m),
        **sizes,
        "pooling": encoder.pooling,
    }


def _literal(meta: Mapping[str, Any]) -> str:
    rows = "".join(f"            {key!r}: {value!r},\n" for key, value in meta.items())
    return f"{{\n{rows}        }}"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "encoder"


class _SourceAlone(SourceFileLoader):
    """Runs the source and never the bytecode beside it, of which no checksum is known."""

    def path_stats(self, path: str) -> Any:
        """Refuse, which is how an import finds that there is no bytecode to use or to write."""
        raise OSError("no bytecode")


def load_weights_module(folder: Path) -> ModuleType:
    """Import ``weights.py`` of the bundle ``folder``; this runs it.

    Raises:
        UserError: it cannot be imported.
    """
    path = folder / WEIGHTS_FILE
    name = f"eo_ssl_bundle_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if not path.is_file():
        raise UserError(f"expected {WEIGHTS_FILE} in {folder}, got none; export the encoder again")
    spec = importlib.util.spec_from_loader(name, _SourceAlone(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # an enumeration looks its module up
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def run_enum(folder: Path, x: Tensor, *, model: str, pooling: str) -> dict[str, Tensor]:
    """Return features [n, D] of ``x`` through the enumeration: by TorchGeo's task and function, where it has one."""
    from torchgeo.models import get_model, list_models

    from eo_ssl.export.torchgeo_tasks import ClassificationTask

    weights = load_weights_module(folder).WEIGHTS
    task = ClassificationTask(model=model, weights=weights, in_channels=x.shape[1], num_classes=2)
    features = {"ClassificationTask(weights=enum)": pool_features(task.model, x, pooling=pooling)}
    if model in list_models():
        features[f"torchgeo.models.{model}(weights=enum)"] = pool_features(
            get_model(model, weights=weights), x, pooling=pooling
        )
    return features
