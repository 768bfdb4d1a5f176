"""Damaged folders of encoders: each is refused in one sentence, by everything that opens one; nothing wrong is used in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.damaged_tensors import TENSORS, edit_tensors, put_number
from bench.damaged_values import Act, Rng
from bench.damages import check_sentence, flip_bit, list_acts
from eo_ssl.cli import main
from eo_ssl.curation import DynamicConfig, DynamicSchedule, Hierarchical
from eo_ssl.encoder import ENCODER_FILE, load_encoder, save_encoder
from eo_ssl.errors import UserError
from eo_ssl.manifest import MANIFEST, Clock, finish
from eo_ssl.models import Vit
from eo_ssl.pretraining import list_files
from eo_ssl.reporting import collect_report
from planted import BANDS, contract

SEED, COUNT = 76, 90
OLD = Path(__file__).parent / "fixtures" / "version_0_1" / "encoder"


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
    config = DynamicConfig(keep=0.5, warmup=8, interval=8, method=Hierarchical(levels=(4,), scaling="zscore"), seed=0)
    points = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    event = DynamicSchedule(config).update(points, presentations=8)[1].to_json()
    (folder / "pruning" / "events.json").write_text(json.dumps([event]))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step_000000004.ckpt").write_bytes(b"may be removed")
    made: dict[str, Any] = {"stage": "pretrain", "config": {}, "inputs": {}, "product": product, "started": Clock()}
    finish(folder, **made, seed=0, summary={"parameters": 3}, files=list_files(folder))
    return folder


DAMAGED = (ENCODER_FILE, MANIFEST, "log.jsonl", "pruning/events.json")


def _forget_files(folder: Path) -> None:
    """As earlier versions wrote it."""
    content = json.loads((folder / MANIFEST).read_text())
    del content["files"], content["sha256"]
    content["schema_version"] = 2
    (folder / MANIFEST).write_text(json.dumps(content))


def _open(folder: Path) -> str | None:
    """What loading and reporting say: a refusal, or nothing."""
    said = None
    for opening in (lambda: load_encoder(folder), lambda: collect_report([folder])):
        try:
            opening()
        except UserError as error:
            check_sentence(error)
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
        guarded = number % 3 == 0
        if number % 3 == 1:
            _forget_files(folder)
        name = str(rng.choice([name for name in DAMAGED if (folder / name).is_file()]))
        acts = list_acts(Path(name).suffix)
        acts[rng.integers(len(acts))][1](rng, folder / name)
        if _open(folder) is None:
            accepted.append((guarded, name))
            assert name != ENCODER_FILE or not guarded  # provenance without the seal of today's files
            assert load_encoder(folder).fingerprint == sound[origin]
        shutil.rmtree(folder)
    assert not [name for guarded, name in accepted if guarded], accepted  # where files are named, nothing is unseen
    assert len(accepted) <= COUNT // 3, accepted


@pytest.mark.parametrize("origin", ["made", "old"])
@pytest.mark.parametrize("act", [flip_bit, TENSORS["tensor: NaN"]], ids=["flip", "nan"])
def test_other_weights_are_refused_wherever_an_encoder_is_opened(
    origin: str, act: Act, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "encoder", str(tmp_path / "out")
    shutil.copytree(made if origin == "made" else OLD, folder)
    act(np.random.default_rng(3), folder / ENCODER_FILE)
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
        with pytest.raises(
            UserError, match=r"as it was made, got another content|\d+ bytes of|other weights or another contract"
        ):
            load_encoder(place)


def test_a_lone_file_knows_its_own_fingerprint(made: Path, tmp_path: Path) -> None:
    lone = tmp_path / "mine.safetensors"
    shutil.copy(made / ENCODER_FILE, lone)
    assert load_encoder(lone).fingerprint == load_encoder(made).fingerprint
    sound = lone.read_bytes()
    lone.write_bytes(sound.replace(b'commercial\\":true', b'commercial\\":1000'))
    with pytest.raises(UserError, match=r"expected the contract and provenance that .* was saved with, got others"):
        load_encoder(lone)
    data = bytearray(sound)
    data[-40] ^= 1
    lone.write_bytes(data)
    with pytest.raises(UserError, match=r"expected the encoder of fingerprint \w{12} in .*, got other weights"):
        load_encoder(lone)

    def nan_in_earlier_form(rng: Rng, tensors: dict[str, Any], metadata: dict[str, str]) -> str:
        del metadata["seal"], metadata["fingerprint"]
        return put_number(float("nan"))(rng, tensors, metadata)

    edit_tensors(nan_in_earlier_form)(np.random.default_rng(0), lone)
    with pytest.raises(UserError, match=r"expected finite weights in .*, got NaN or infinity in \w+"):
        load_encoder(lone)


def test_provenance_is_guarded_and_checkpoints_may_go(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(made, folder)
    shutil.rmtree(folder / "checkpoints")
    assert load_encoder(folder).provenance["licences"] == [{"non_commercial": True}]
    path = folder / ENCODER_FILE
    path.write_bytes(path.read_bytes().replace(b'commercial\\":true', b'commercial\\":1000'))
    with pytest.raises(UserError, match=rf"expected .*{ENCODER_FILE} as it was made, got (another content|\d+ bytes)"):
        load_encoder(folder)
    shutil.copy(made / ENCODER_FILE, path)
    (folder / "log.jsonl").unlink()
    with pytest.raises(UserError, match=r"log\.jsonl"):
        load_encoder(folder)
