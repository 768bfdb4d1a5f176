"""The folder of an encoder of two sensors, as a finished pretraining leaves it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from eo_ssl.manifest import open_product
from eo_ssl.models import Architecture, Vit
from eo_ssl.objectives import Croma, Method
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.pretraining.saving import save_encoders
from eo_ssl.pretraining.training_data import TrainingData
from eo_ssl.sensors import Quantity
from exported import optical, radar

ALIBI = Vit("test_vit", patch_size=8, depth=2, position="alibi")
CROMA, SHALLOW = Croma(fusion_depth=2), Croma(fusion_depth=1)
LICENCES = [
    {"card": "radar_card", "licence": "CC BY 4.0", "attribution": "Owners of the radar.", "non_commercial": False},
    {"card": "colour_card", "licence": "CC BY-NC 4.0", "attribution": "Owners of colours.", "non_commercial": True},
]
BEN_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
SO2SAT_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")


def for_bigearthnet() -> dict[str, Preprocessing]:
    """Contracts of surface reflectance and dB, at a fifth of the images' 120 px."""
    boa = Quantity.BOA_REFLECTANCE
    return {
        "s1": radar(24, sensor="sentinel1_grd", quantity=Quantity.SIGMA0_DB, convert=(), range=(-60.0, 30.0)),
        "s2": optical(24, BEN_BANDS, sensor="sentinel2_l2a", quantity=boa, range=boa.plausible),
    }


def for_so2sat() -> dict[str, Preprocessing]:
    """Contracts of reflectance above the atmosphere and of power that becomes dB."""
    sigma0 = Quantity.SIGMA0
    return {
        "s1": radar(
            32, sensor="sentinel1_grd", quantity=sigma0, convert=("sigma0->sigma0_db",), range=sigma0.plausible
        ),
        "s2": optical(32, SO2SAT_BANDS),
    }


def make_fused(
    folder: Path,
    contracts: dict[str, Preprocessing],
    *,
    model: Architecture = ALIBI,
    method: Method = CROMA,
    seed: int = 0,
) -> Path:
    """Write an encoder of both sensors behind ``contracts``, joined by ``method``, to ``folder`` and return it."""
    contracts = {stream: model.adapt_contract(contract) for stream, contract in contracts.items()}
    encoders = {
        stream: model.build(contract.bands, contract.size_px, 10 * seed + place, sensor=contract.sensor)
        for place, (stream, contract) in enumerate(contracts.items())
    }
    objective = method.build(encoders, seed)
    with torch.no_grad():  # an untrained fusion hardly looks at the second sensor
        for name, weights in objective.fused.named_parameters():  # type: ignore[union-attr]
            weights.mul_(4 if name.endswith("cross.proj.weight") else 1)
        for name, weights in objective.named_parameters():  # untrained codes of metadata are zeros
            if "metadata" in name:
                weights.copy_(torch.linspace(-1, 1, weights.numel()).view_as(weights))
    none = np.empty(0, dtype=np.int64)
    items = SimpleNamespace(contracts=contracts)
    data = TrainingData(items, none, none, none, {"corpus planted": "0" * 64}, 0, none, LICENCES)  # type: ignore[arg-type]
    config = {"objective": type(method).__name__, "seed": seed, "steps": 0, "streams": ["s1", "s2"]}
    with open_product(folder, stage="pretrain", config=config, inputs=data.inputs) as product:
        save_encoders(objective, data, product, seed=seed, cost={}, summary={})
    return folder
