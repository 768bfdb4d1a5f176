"""The file of a location encoder, beside that of the encoder it was trained with."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import safetensors.torch

from eo_ssl.commits import commit
from eo_ssl.documents import check_not_newer
from eo_ssl.encoder.foreign_weights import check_finite
from eo_ssl.encoder.protocol import hash_tensors
from eo_ssl.encoder.storage import sort_header
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import dump_canonical_json
from eo_ssl.models import LocationEncoder, LocationModel

LOCATION_FILE = "location.safetensors"
FORMAT = 1  # of the metadata inside the file
_REMEDY = "copy it again, or train with `eo-ssl pretrain --location`"


def save_location_encoder(folder: Path, encoder: LocationEncoder) -> str:
    """Write ``folder/location.safetensors``, weights and model, and return its fingerprint; equal content, equal bytes.

    Raises:
        UserError: another location encoder is there already.
    """
    tensors = {key: value.detach().cpu().float().contiguous() for key, value in encoder.state_dict().items()}
    model = asdict(encoder.model)
    saved = hash_tensors(tensors, model)
    metadata = {"format": str(FORMAT), "model": dump_canonical_json(model), "fingerprint": saved}
    path = Path(folder) / LOCATION_FILE
    committed = commit(path, sort_header(safetensors.torch.save(tensors, metadata)))
    expect(
        committed or hash_tensors(load_location_encoder(path).state_dict(), model) == saved,
        expected=f"no other location encoder at {path}",
        got="one with other weights",
        remedy="give another output folder",
    )
    return saved


def load_location_encoder(source: str | Path) -> LocationEncoder:
    """The location encoder of a folder that ``eo-ssl pretrain --location`` wrote, or of its file; see its `embed`.

    Raises:
        UserError: no such file, a damaged one, or one of a newer format.
    """
    path = Path(source)
    path = path / LOCATION_FILE if path.is_dir() else path
    expect(
        path.is_file(),
        expected=f"a location encoder at {path}",
        got="none",
        remedy="name a folder that `eo-ssl pretrain --location` wrote",
    )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
        check_not_newer(metadata.get("format"), FORMAT, what="location encoder format", at=str(path))
        options = json.loads(metadata["model"])
        encoder = LocationModel(**options).build(seed=0)
        encoder.load_state_dict(tensors)
        found = hash_tensors(tensors, options)
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{error} (in {path})") from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:120]
        raise UserError(
            f"expected a location encoder of this library in {path}, got {type(error).__name__}: {reason}; {_REMEDY}"
        ) from error
    expect(
        found == metadata.get("fingerprint"),
        expected=f"the weights that {path} was saved with",
        got="others",
        remedy=_REMEDY,
    )
    check_finite(tensors, where=str(path), remedy=_REMEDY)
    return encoder.eval()
