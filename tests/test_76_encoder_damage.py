"""Damaged folders of encoders: each is refused in one sentence, by everything that opens one; nothing wrong is used in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from eo_ssl.cli import main
from eo_ssl.encoder import ENCODER_FILE, load_encoder, save_encoder
from eo_ssl.errors import UserError
from eo_ssl.manifest import MANIFEST, Clock, finish
from eo_ssl.models import Vit
from eo_ssl.pretraining import record_files
from eo_ssl.reporting import find_products
from eo_ssl.reporting.sections.trainings import describe_trainings
from planted import BANDS, contract

SEED, COUNT = 76, 90
OLD = Path(__file__).parent / "fixtures" / "version_0_1" / "encoder"
Rng = np.random.Generator


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pretraining with a log and pruning events, every file named in its manifest."""
    folder = tmp_path_factory.mktemp("run") / "encoder"
    network = Vit(patch_size=8, depth=1).build(BANDS, 16, 0)
    origin = {"config": {"objective": "mae", "seed": 0}, "inputs": {}, "licences": [{"non_commercial": True}]}
    product = save_encoder(folder, network, preprocessing=contract(), provenance=origin)
    lines = [{"step": step, "loss": 1 / step, "presentations": 8 * step} for step in range(1, 9)]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "pruning").mkdir()
    (folder / "pruning" / "events.json").write_text(json.dumps([{"presentations": 8, "event": 1}]))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step_000000004.ckpt").write_bytes(b"may be removed")
    facts = {"parameters": 3} | record_files(folder)
    finish(folder, stage="pretrain", config={}, inputs={}, product=product, started=Clock(), seed=0, summary=facts)
    return folder


def _flip(path: Path, rng: Rng) -> None:
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def _flip_early(path: Path, rng: Rng) -> None:
    """In the header of safetensors, where contract, architecture and provenance are."""
    data = bytearray(path.read_bytes())
    data[rng.integers(min(len(data), 4000))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def _cut(path: Path, rng: Rng) -> None:
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def _remove(path: Path, rng: Rng) -> None:
    path.unlink()


def _junk(path: Path, rng: Rng) -> None:
    path.write_bytes(rng.bytes(int(rng.integers(1, 300))))


def _edit_json(change: Callable[[dict[str, Any], str, Rng], None]) -> Callable[[Path, Rng], None]:
    def act(path: Path, rng: Rng) -> None:
        text = path.read_text()
        value = json.loads(text.splitlines()[0] if path.suffix == ".jsonl" else text)
        target = value[0] if isinstance(value, list) else value
        change(target, str(rng.choice(sorted(target))), rng)
        path.write_text(json.dumps(value))

    return act


WRONG: tuple[Any, ...] = (None, [], {}, "x", -1, 1e400, True, [[1]], {"a": {"b": 1}}, float("nan"))


def _wrong_type(target: dict[str, Any], key: str, rng: Rng) -> None:
    target[key] = WRONG[rng.integers(len(WRONG))]


def _drop_key(target: dict[str, Any], key: str, rng: Rng) -> None:
    del target[key]


def _add_key(target: dict[str, Any], key: str, rng: Rng) -> None:
    target["another"] = 1


def _nest(path: Path, rng: Rng) -> None:
    path.write_text("[" * 100_000)


def _as_list(path: Path, rng: Rng) -> None:
    path.write_text("[1, 2]\n3\n")


def _edit_tensors(change: Callable[[dict[str, Any], dict[str, str], Rng], None]) -> Callable[[Path, Rng], None]:
    """Change tensors and metadata, and write a sound file of them."""

    def act(path: Path, rng: Rng) -> None:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        change(tensors, metadata, rng)
        path.write_bytes(safetensors.torch.save(tensors, metadata))

    return act


def _nan(tensors: dict[str, Any], metadata: dict[str, str], rng: Rng) -> None:
    tensors[str(rng.choice(sorted(tensors)))].view(-1)[0] = torch.nan


def _extra_tensor(tensors: dict[str, Any], metadata: dict[str, str], rng: Rng) -> None:
    tensors["another"] = torch.zeros(2)


def _other_dtype(tensors: dict[str, Any], metadata: dict[str, str], rng: Rng) -> None:
    key = str(rng.choice(sorted(tensors)))
    tensors[key] = tensors[key].half()


def _metadata(tensors: dict[str, Any], metadata: dict[str, str], rng: Rng) -> None:
    metadata.pop("fingerprint", None)
    key = str(rng.choice(sorted(metadata)))
    metadata[key] = str(rng.choice(["", "null", "[]", "{}", "7", '{"x": 1}', "[" * 9999, "1" * 5000]))


def _inner(tensors: dict[str, Any], metadata: dict[str, str], rng: Rng) -> None:
    metadata.pop("fingerprint", None)
    name = str(rng.choice(["architecture", "preprocessing"]))
    value = json.loads(metadata[name])
    inside = value["config"] if name == "architecture" and rng.random() < 0.5 else value
    inside[str(rng.choice(sorted(inside)))] = WRONG[rng.integers(len(WRONG))]
    metadata[name] = json.dumps(value)


BYTES = (_flip, _cut, _junk, _remove)
JSONS = (_edit_json(_wrong_type), _edit_json(_drop_key), _edit_json(_add_key), _nest, _as_list)
TENSORS = tuple(_edit_tensors(change) for change in (_nan, _extra_tensor, _other_dtype, _metadata, _inner, _inner))
ACTS = {
    ENCODER_FILE: (*BYTES, _flip_early, *TENSORS),
    MANIFEST: (*BYTES, *JSONS),
    "log.jsonl": (*BYTES, *JSONS),
    "pruning/events.json": (*BYTES, *JSONS),
}


def _check_sentence(error: UserError) -> None:
    text = str(error)
    assert text.startswith("expected ") and "\n" not in text and len(text) < 1000, text


def _open(folder: Path) -> str | None:
    """What loading and reporting say: a refusal, or nothing."""
    said = None
    for opening in (lambda: load_encoder(folder), lambda: describe_trainings(find_products([folder]))):
        try:
            opening()
        except UserError as error:
            _check_sentence(error)
            said = str(error)
    return said


def test_ninety_damages_are_refused_in_a_sentence_or_change_nothing(made: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    sound = {made: load_encoder(made).fingerprint, OLD: load_encoder(OLD).fingerprint}
    accepted = []
    for number in range(COUNT):
        origin = OLD if number % 3 == 2 else made
        folder = tmp_path / f"{number}" / "encoder"
        shutil.copytree(origin, folder)
        name = str(rng.choice([name for name in ACTS if (folder / name).is_file()]))
        act = ACTS[name][rng.integers(len(ACTS[name]))]
        act(folder / name, rng)
        if _open(folder) is None:
            accepted.append((origin is OLD, name))
            assert load_encoder(folder).fingerprint == sound[origin]
        shutil.rmtree(folder)
    # Of the new kind only a manifest may change unseen, in what is no fact of its files: times, packages, the command.
    assert {name for old, name in accepted if not old} <= {MANIFEST}
    assert len(accepted) <= COUNT // 4, accepted


@pytest.mark.parametrize("origin", ["made", "old"])
@pytest.mark.parametrize("act", [_flip, _edit_tensors(_nan)], ids=["flip", "nan"])
def test_other_weights_are_refused_wherever_an_encoder_is_opened(
    origin: str, act: Callable[[Path, Rng], None], made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "encoder", str(tmp_path / "out")
    shutil.copytree(made if origin == "made" else OLD, folder)
    act(folder / ENCODER_FILE, np.random.default_rng(3))
    corpus = str(OLD.parent / "corpus")
    commands = (
        ["embed", str(folder), corpus, "--stream", "s2_boa_b02b03b04b08_10m_16px", "--out", out],
        ["evaluate", "--encoders", str(folder), "--task", "corpus", "--data", corpus, "--out", out],
        ["evaluate", "--encoders", str(folder / ENCODER_FILE), "--task", "corpus", "--data", corpus, "--out", out],
        ["export", str(folder), "--out", out],
        ["report", "--inputs", str(folder), "--out", out],
    )
    for command in commands:
        assert main(command) == 2, command
        said = capsys.readouterr().err
        assert "expected" in said and "Traceback" not in said and said.count("\n") == 1, said
    for place in (folder, folder / ENCODER_FILE):
        with pytest.raises(UserError, match=r"other bytes in|other weights or another contract"):
            load_encoder(place)


def test_a_lone_file_knows_its_own_fingerprint(made: Path, tmp_path: Path) -> None:
    lone = tmp_path / "mine.safetensors"
    shutil.copy(made / ENCODER_FILE, lone)
    assert load_encoder(lone).fingerprint == load_encoder(made).fingerprint
    data = bytearray(lone.read_bytes())
    data[-40] ^= 1
    lone.write_bytes(data)
    with pytest.raises(UserError, match=r"expected the encoder of fingerprint \w{12} in .*, got other weights"):
        load_encoder(lone)
    _edit_tensors(lambda tensors, metadata, rng: (metadata.pop("fingerprint"), _nan(tensors, metadata, rng)))(
        lone, np.random.default_rng(0)
    )
    with pytest.raises(UserError, match=r"expected finite weights in .*, got NaN or infinity in \w+"):
        load_encoder(lone)


def test_provenance_is_guarded_and_checkpoints_may_go(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(made, folder)
    shutil.rmtree(folder / "checkpoints")
    assert load_encoder(folder).provenance["licences"] == [{"non_commercial": True}]
    path = folder / ENCODER_FILE
    path.write_bytes(path.read_bytes().replace(b'commercial\\":true', b'commercial\\":1000'))
    with pytest.raises(UserError, match=rf"as its manifest records them, got other bytes in {ENCODER_FILE}; copy"):
        load_encoder(folder)
    shutil.copy(made / ENCODER_FILE, path)
    (folder / "log.jsonl").unlink()
    with pytest.raises(UserError, match=r"got no log\.jsonl"):
        load_encoder(folder)


def test_a_manifest_names_files_of_its_folder_alone(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(made, folder)
    content = json.loads((folder / MANIFEST).read_text())
    for files, words in (
        ({"../x": "0"}, r"got '\.\./x'"),
        ({"/etc/x": "0"}, "got '/etc/x'"),
        ([1], "a sha256 for each"),
    ):
        content["summary"]["files"] = files
        (folder / MANIFEST).write_text(json.dumps(content))
        with pytest.raises(UserError, match=words):
            load_encoder(folder)
