"""The files that make a bundle a model of torchgeo-bench: one module, and the Hydra configuration that names it."""

from __future__ import annotations

import json
from pathlib import Path

from eo_ssl.encoder import TrainedEncoder
from eo_ssl.export import standalone
from eo_ssl.printable import show_controls

BENCH_FOLDER = "bench"
BENCH_MODULE = f"{BENCH_FOLDER}/eo_ssl_encoder.py"
BENCH_CONFIG = f"{BENCH_FOLDER}/model/eo_ssl.yaml"
_SHARED = "from eo_ssl.export.standalone import make_transforms, read_contract\n"
_CONFIG = """# {name} for torchgeo-bench 0.4, Python 3.12 or later. With BUNDLE the folder that holds preprocess.json:
#
#   PYTHONPATH=BUNDLE/{folder} torchgeo-bench run --config-dir BUNDLE/{folder} model=eo_ssl dataset.names=[...] \\
#     dataset.bands=all dataset.image_size=null dataset.normalization=model_native \\
#     model.quantity={quantity} model.scale=... model.offset=...
_target_: eo_ssl_encoder.BundleEncoder
name: {quoted}
quantity: ???  # what (stored + offset) * scale is in the data set; the encoder takes {quantity}
scale: ???  # 1e-4 for reflectance stored as whole numbers, 1 for physical values
offset: ???  # 0, or -1000 for files of processing baseline 04.00 and later
image_size: ${{dataset.image_size}}
size_px: null  # another input side of the encoder than that of training{multiple}
rename: {{}}  # name in the benchmark -> band, where its names are wrong
missing: refuse  # or mean, for data sets without some of the bands
"""


def make_bench_files(encoder: TrainedEncoder) -> dict[str, bytes]:
    """Return the adapter and its configuration by their path in the bundle."""
    adapter = (Path(__file__).parent / "torchgeo_bench.py").read_text(encoding="utf-8")
    shared = Path(standalone.__file__).read_text(encoding="utf-8").split("from __future__ import annotations\n", 1)[1]
    lines = adapter.splitlines()
    alone = "\n".join(line for line in shared.splitlines() if not ("import " in line and line in lines))
    patch = encoder.architecture.timm_options.get("patch_size")
    config = _CONFIG.format(
        name=show_controls(encoder.name),
        quoted=json.dumps(encoder.name),
        folder=BENCH_FOLDER,
        quantity=encoder.preprocessing.quantity.value,
        multiple="" if patch is None else f", a multiple of {patch}",
    )
    return {BENCH_MODULE: adapter.replace(_SHARED, alone.strip() + "\n").encode(), BENCH_CONFIG: config.encode()}
