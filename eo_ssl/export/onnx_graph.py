"""The encoder as an ONNX graph, from its normalised input or, with the contract inside, from physical values."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import torch
from torch import Tensor

from eo_ssl.encoder import FusedEncoder, TrainedEncoder
from eo_ssl.errors import UserError
from eo_ssl.export.encoder_module import make_graph_inputs

ENCODER_GRAPH = "onnx/encoder.onnx"
PHYSICAL_GRAPH = "onnx/encoder_physical.onnx"
GRAPHS = (ENCODER_GRAPH, PHYSICAL_GRAPH)
LARGEST = 2_000_000_000  # bytes; a protobuf message ends at 2 GiB
OPSET = 18  # of the ONNX standard operators


def require_onnx() -> None:
    """Refuse where the packages that write and check graphs are missing.

    Raises:
        UserError: naming them.
    """
    absent = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(
            f"expected the packages onnx, onnxscript and onnxruntime, got no {', '.join(absent)}; install"
            " eo_ssl[export], or export with --onnx false"
        )


def export_graph(encoder: TrainedEncoder | FusedEncoder, *, physical: bool) -> bytes:
    """Return the graph ``image`` [batch, C, s, s] float32 -> ``features`` [batch, D] float32, the batch free.

    Of an encoder of two sensors the inputs are ``radar`` and ``optical``.

    Args:
        encoder: whose native size s the graph takes; another size is interpolated before, as preprocess.json says.
        physical: take values in the contract's quantity; conversion, clipping, normalisation and invalid pixels (not
            finite -> mean, or left out by networks that do so) are part of the graph.

    Raises:
        UserError: more weights than one file can hold.
    """
    require_onnx()
    size = sum(parameter.numel() * parameter.element_size() for parameter in encoder.parameters())
    if size > LARGEST:
        raise UserError(
            f"expected at most 2 GB of weights for one ONNX file, got {size / 1e9:.1f} GB; export with --onnx false"
        )
    module, examples, free = make_graph_inputs(encoder, physical=physical)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(free),
            output_names=["features"],
            dynamic_shapes=free,
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def run_graph(path: Path, *images: Tensor) -> Tensor:
    """Return what onnxruntime computes for ``images`` [n, C, s, s], on one thread of the CPU: features [n, D].

    Two images are those of radar and optics.

    Raises:
        UserError: no such graph, or a damaged one.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = ("image",) if len(images) == 1 else ("radar", "optical")
        (features,) = session.run(["features"], {name: x.numpy() for name, x in zip(names, images, strict=True)})
    except Exception as error:  # onnxruntime's errors have no common class but this one
        reason = (str(error).strip().splitlines() or [""])[0][:160]
        raise UserError(
            f"expected an ONNX graph of an encoder in {path}, got {type(error).__name__}: {reason}; export the encoder"
            " again"
        ) from error
    return torch.from_numpy(features)
