"""A whole run: it learns, prunes, logs, and ends with the same bits however often it was killed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import test_82_processes as processes
from eo_ssl.curation import CurationReport, Density, DynamicConfig, DynamicSchedule, Ranked, Readiness, SimCore
from eo_ssl.errors import UserError
from eo_ssl.leases import reserve
from eo_ssl.objectives import Objective, Step
from eo_ssl.pretraining import Processes
from eo_ssl.pretraining.checkpoints import AtomicCheckpoint, find_sound_checkpoint
from eo_ssl.pretraining.pruning import DynamicPruning, Pruning
from eo_ssl.pretraining.run_log import RunLog, summarise
from eo_ssl.pretraining.view_spread import ViewSpread
from runs import BATCH, STEPS, TILES, make_loader, run, schedule, weights


def _log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _untimed(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "images_per_s"} for row in rows]


@pytest.mark.parametrize("name", ["mae", "mae_hard", "ijepa", "simclr", "mocov2", "dino", "dinov2", "isogclr"])
def test_a_broken_run_continues_to_the_same_bits(name, tmp_path):
    wanted, _ = run(tmp_path / "whole", name=name)
    with pytest.raises(RuntimeError, match="spoiled on purpose"):
        run(tmp_path / "broken", name=name, spoil=37)
    assert find_sound_checkpoint(tmp_path / "broken" / "checkpoints").name.startswith("step_000000035.")
    got, _ = run(tmp_path / "broken", name=name)
    assert weights(got) == weights(wanted)
    rows = _log(tmp_path / "broken")
    assert _untimed(rows) == _untimed(_log(tmp_path / "whole"))
    assert [row["step"] for row in rows] == sorted({*range(4, STEPS + 1, 4), *range(15, STEPS + 1, 15)})
    assert all(row["presentations"] == row["step"] * BATCH for row in rows)
    if name in ("mae", "ijepa"):  # up to symmetry the tiles are of one kind, which no contrast can tell apart
        assert rows[-1]["loss"] < rows[0]["loss"]
    assert {row["step"] for row in rows if "rankme" in row} == {15, 30, 45, 60}


@pytest.mark.parametrize("name", processes.METHODS)
def test_whatever_a_method_learns_from_a_step_is_in_its_state(name, monkeypatch):
    """A fresh objective that takes the state over goes on as the one that made it, weight by weight."""
    for module, blocks in ((processes.ijepa, "draw_blocks"), (processes.dino_v2, "draw_masks")):
        monkeypatch.setattr(module, blocks, getattr(module, blocks))  # which the helper replaces
    first, second = processes.build(name), processes.build(name)
    _advance(first)
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    assert _advance(second) == _advance(first)
    assert weights(second) == weights(first)


def _advance(objective: Objective) -> float:
    """The loss of a batch, of which the objective makes a step."""
    loss = processes.loss_of(objective, slice(0, processes.ITEMS))
    loss.backward()
    torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.01).step()
    objective.zero_grad()
    objective.after_step(Step(1, 2, 0))
    return float(loss.detach())


def test_a_run_that_is_out_of_time_goes_on_from_its_last_step_to_the_same_bits(tmp_path):
    wanted, _ = run(tmp_path / "whole", name="ijepa", keep=0.5)
    for steps in (1, 2, 3):  # no time at all: each start makes one step, whatever the earlier ones took
        with pytest.raises(UserError, match=f"60 steps within a time of 0:00:00, got {steps}; the same command goes"):
            run(tmp_path / "short", name="ijepa", keep=0.5, max_time="00:00:00:00")
    got, _ = run(tmp_path / "short", name="ijepa", keep=0.5, max_time="01:00:00:00")
    assert weights(got) == weights(wanted)
    assert _untimed(_log(tmp_path / "short")) == _untimed(_log(tmp_path / "whole"))
    with pytest.raises(UserError, match="expected a time as DD:HH:MM:SS, got '8h'; give eight hours as 00:08:00:00"):
        run(tmp_path / "other", max_time="8h")
    assert not (tmp_path / "other").exists()


def test_reading_ahead_changes_no_bit(tmp_path):
    first, _ = run(tmp_path / "ahead", ahead=True, keep=0.5)
    second, _ = run(tmp_path / "plain", ahead=False, keep=0.5)
    assert weights(first) == weights(second)


def test_keeping_everything_is_byte_identical_to_no_pruning(tmp_path):
    plain, _ = run(tmp_path / "plain", name="ijepa")
    pruned, loader = run(tmp_path / "pruned", name="ijepa", keep=1.0)
    assert weights(pruned) == weights(plain)
    assert len(loader.sampler.pool) == TILES
    events = json.loads((tmp_path / "pruned" / "pruning" / "events.json").read_text())
    assert [event["n_kept"] for event in events] == [TILES] * 3  # held, and harmless


def test_exact_duplicates_leave_the_pool_unless_everything_is_kept(tmp_path):
    # Eight tiles are all one and the same; of those an event may keep one, whatever share it keeps.
    identities = np.maximum(np.arange(TILES) - 7, 0)
    _, loader = run(tmp_path / "half", keep=0.95, identities=identities)
    assert np.array_equal(loader.sampler.pool, [0, *range(8, TILES)])
    table = pq.read_table(tmp_path / "half" / "pruning" / "event_0001.parquet")
    assert table["reason"].to_pylist()[:9] == ["kept", *["duplicate"] * 7, "kept"]
    (event, *_) = json.loads((tmp_path / "half" / "pruning" / "events.json").read_text())
    assert event["reasons"]["duplicate"] == 7 and len(event["encoder_fingerprint"]) == 64
    plain, _ = run(tmp_path / "plain")
    everything, loader = run(tmp_path / "all", keep=1.0, identities=identities)
    assert weights(everything) == weights(plain) and len(loader.sampler.pool) == TILES


@pytest.mark.parametrize(("keep", "identities"), [(0.05, None), (0.9, np.zeros(TILES, dtype=np.int64))])
def test_a_pool_too_small_for_a_batch_is_refused_before_the_first_step(tmp_path, keep, identities):
    with pytest.raises(UserError, match="expected pruning to leave at least one batch of 8 tiles, got"):
        run(tmp_path, keep=keep, identities=identities)
    assert not (tmp_path / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("method", "words"),
    [(Ranked("enl"), "expected a column enl beside the embeddings"), (SimCore(), "expected a target set for simcore")],
)
def test_a_selector_that_lacks_what_it_selects_by_is_refused_before_the_first_step(tmp_path, method, words):
    loader, config = make_loader(), DynamicConfig(warmup=100, interval=160, method=method)
    pruning = Pruning(DynamicSchedule(config))
    with pytest.raises(UserError, match=words):
        DynamicPruning(pruning, loader, RunLog(tmp_path / "log.jsonl", loader, every=1), ViewSpread(1), folder=tmp_path)


def test_pruning_events_change_the_pool_come_from_the_full_set_and_survive_a_resume(tmp_path):
    whole, loader = run(tmp_path / "whole", name="ijepa", keep=0.5)
    with pytest.raises(RuntimeError, match="spoiled"):
        run(tmp_path / "broken", name="ijepa", keep=0.5, spoil=41)
    resumed, other = run(tmp_path / "broken", name="ijepa", keep=0.5)
    assert weights(resumed) == weights(whole)
    assert np.array_equal(loader.sampler.pool, other.sampler.pool) and len(other.sampler.pool) == TILES // 2
    plain, _ = run(tmp_path / "plain", name="ijepa")
    assert weights(plain) != weights(whole)
    events = [
        CurationReport.from_json(e) for e in json.loads((tmp_path / "broken" / "pruning" / "events.json").read_text())
    ]
    # due after 100, 260 and 420 presentations of 8 at a time
    assert [(e.event, e.presentations, e.n_rows, e.n_kept) for e in events] == [
        (1, 104, TILES, TILES // 2),
        (2, 264, TILES, TILES // 2),
        (3, 424, TILES, TILES // 2),
    ]
    for number in (1, 2, 3):
        name = f"event_{number:04d}.parquet"
        table = pq.read_table(tmp_path / "broken" / "pruning" / name)
        assert table.equals(pq.read_table(tmp_path / "whole" / "pruning" / name))
        assert table["row"].to_pylist() == list(range(TILES)) and sum(table["kept"].to_pylist()) == TILES // 2
    last = pq.read_table(tmp_path / "whole" / "pruning" / "event_0003.parquet")
    assert np.array_equal(last["row"].to_numpy()[last["kept"].to_numpy()], loader.sampler.pool)
    pools = {row["step"]: row["pool"] for row in _log(tmp_path / "whole")}
    assert pools[12] == TILES and pools[16] == TILES // 2


SOFT = Density(neighbour=3)


@pytest.mark.parametrize("name", ["simclr", "mae"])
def test_weighted_events_survive_a_kill_at_any_moment(tmp_path, name):
    """Weights, draws, spreads of views and the log are those of the run that nobody stopped."""
    whole, loader = run(tmp_path / "whole", name=name, keep=0.4, method=SOFT)
    for moment in (11, 14, 33, 38, 55):  # before, right after and between the events at steps 13, 33 and 53
        folder = tmp_path / f"broken_{moment}"
        with pytest.raises(RuntimeError, match="spoiled"):
            run(folder, name=name, keep=0.4, method=SOFT, spoil=moment)
        resumed, other = run(folder, name=name, keep=0.4, method=SOFT)
        assert weights(resumed) == weights(whole)
        assert _untimed(_log(folder)) == _untimed(_log(tmp_path / "whole"))
        assert other.sampler.weights.tolist() == loader.sampler.weights.tolist()
    assert np.array_equal(loader.sampler.pool, np.arange(TILES)) and loader.sampler.weights.max() > 1.5
    events = [CurationReport.from_json(e) for e in json.loads((folder / "pruning" / "events.json").read_text())]
    assert [round(event.effective_rows) for event in events] == [round(0.4 * TILES)] * 3
    assert [event.n_kept for event in events] == [TILES] * 3 and 0 < events[2].turnover < 0.6
    told = not any("density alone" in note for note in events[2].notes)
    assert told == (name == "simclr")  # which sees two views of a tile, an autoencoder one
    table = pq.read_table(tmp_path / "whole" / "pruning" / "event_0003.parquet")
    np.testing.assert_array_equal(table["weight"].to_numpy(), loader.sampler.weights)


@pytest.mark.parametrize("name", ["simclr", "ijepa"])
def test_events_look_twice_at_some_rows_and_trust_what_they_find_again(tmp_path, name):
    asked = {"readiness": Readiness(none=0.0, full=1.0, rows=40), "method": SOFT, "keep": 0.4, "name": name}
    whole, _ = run(tmp_path / "whole", **asked)
    with pytest.raises(RuntimeError, match="spoiled"):
        run(tmp_path / "broken", **asked, spoil=38)
    resumed, _ = run(tmp_path / "broken", **asked)
    assert weights(resumed) == weights(whole)
    events = [json.loads((tmp_path / f / "pruning" / "events.json").read_text()) for f in ("whole", "broken")]
    for event in events[0]:
        gate = event["gate"]
        assert 0 <= gate["agreement"] < 1 and not gate["ready"]
        assert event["effective_rows"] == pytest.approx(TILES * 0.4 ** gate["agreement"], abs=1.5)
        assert event["cost"]["forward_equivalents"] == TILES + 2 * 40
    assert [event["gate"] for event in events[1]] == [event["gate"] for event in events[0]]


def test_redrawing_from_the_first_features_embeds_once_and_resumes(tmp_path):
    whole, loader = run(tmp_path / "whole", name="simclr", keep=0.5, features="first", last=0.15)
    for moment in (14, 38, 54):
        folder = tmp_path / f"broken_{moment}"
        with pytest.raises(RuntimeError, match="spoiled"):
            run(folder, name="simclr", keep=0.5, features="first", last=0.15, spoil=moment)
        resumed, _ = run(folder, name="simclr", keep=0.5, features="first", last=0.15)
        assert weights(resumed) == weights(whole)
    events = json.loads((tmp_path / "whole" / "pruning" / "events.json").read_text())
    assert [event["cost"]["forward_equivalents"] for event in events] == [TILES, 0]  # the third falls in the last part
    pools = {row["step"]: row["pool"] for row in _log(tmp_path / "whole")}
    assert (pools[12], pools[16], pools[48], pools[56]) == (TILES, TILES // 2, TILES // 2, TILES)
    assert len(loader.sampler.pool) == TILES
    with pytest.raises(RuntimeError, match="spoiled"):
        run(tmp_path / "spoiled", name="simclr", keep=0.5, features="first", spoil=25)
    (tmp_path / "spoiled" / "pruning" / "first_features.npy").write_bytes(b"others")
    with pytest.raises(UserError, match=r"expected the features of the first event in .*first_features\.npy"):
        run(tmp_path / "spoiled", name="simclr", keep=0.5, features="first")


def test_checkpoints_are_plain_values_and_half_written_ones_are_ignored(tmp_path):
    run(tmp_path, keep=0.5)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name[:15] for path in folder.iterdir()) == ["step_000000049.", "step_000000056."]
    (folder / ".step_000000063.ckpt.tmp").write_bytes(b"half")
    newest = find_sound_checkpoint(folder)
    assert newest.name.startswith("step_000000056.")
    state = torch.load(newest, weights_only=True)
    assert state["global_step"] == 56
    fresh = schedule(0.5)
    fresh.load_state_dict(state["callbacks"]["DynamicPruning"]["schedule"])
    assert fresh.event == 3


def test_a_checkpoint_in_the_making_is_a_temporary_file_of_its_process(tmp_path):
    """So that what a killed run leaves of one is swept; it used to stay where the next run saved at other steps."""
    written = []

    class Trainer:
        is_global_zero = True

        def save_checkpoint(self, path: Path) -> None:
            written.append(path.name)
            path.write_bytes(b"state")

    AtomicCheckpoint(tmp_path, every=1).save(Trainer(), 7)
    assert [path.name[:15] for path in tmp_path.iterdir()] == ["step_000000007."]
    killed = tmp_path / written[0].replace(f".{os.getpid()}.", f".{2**22 + 1}.")
    killed.write_bytes(b"half")
    with reserve(tmp_path):
        assert not killed.exists()


def test_bfloat16_is_refused_without_hardware():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert Processes().trainer_options()["precision"] == "32-true"
    for choice, words in (
        ({"precision": "bfloat16"}, "a GPU with bfloat16"),
        ({"device": "cuda"}, "a GPU for device"),
        ({"strategy": "fsdp"}, "GPUs for strategy fsdp, got a CPU; use --strategy ddp"),
    ):
        with pytest.raises(UserError, match=words):
            Processes(**choice).trainer_options()


def _spoil(folder: Path, name: str = "ijepa") -> list[Path]:
    """A run that broke after step 37, and its two checkpoints."""
    with pytest.raises(RuntimeError, match="spoiled on purpose"):
        run(folder, name=name, spoil=37)
    return sorted((folder / "checkpoints").iterdir())


def _flip(path: Path) -> None:
    """One bit in the middle of a tensor."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("harm", [_flip, _cut, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("states_sum", [True, False], ids=["this version", "earlier version"])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_resumes_to_the_same_bits(
    harm, states_sum, tmp_path, capsys
):
    wanted, _ = run(tmp_path / "whole", name="ijepa")
    *_, newest = _spoil(tmp_path / "broken")
    if not states_sum:  # as an earlier version named them
        for path in (tmp_path / "broken" / "checkpoints").iterdir():
            path.rename(path.with_name(f"{path.name[:14]}.ckpt"))
        newest = newest.with_name(f"{newest.name[:14]}.ckpt")
    harm(newest)
    capsys.readouterr()
    got, _ = run(tmp_path / "broken", name="ijepa")
    assert weights(got) == weights(wanted)
    said = capsys.readouterr().err.splitlines()
    assert f"the checkpoint {newest} is damaged" in said[0] and "put aside, and the one before it is tried" in said[0]
    assert ["of an earlier version without a sha256" in line for line in said] == [False] + [True] * (not states_sum)
    assert newest.with_name(f"damaged_{newest.name}").exists()


def test_where_no_checkpoint_is_sound_a_sentence_says_so_and_the_next_start_begins_anew(tmp_path):
    wanted, _ = run(tmp_path / "whole")
    for path in _spoil(tmp_path / "broken", "mae"):
        _flip(path)
    with pytest.raises(UserError, match=r"expected a sound checkpoint in .*, got 2 damaged, which were put aside; run"):
        run(tmp_path / "broken")
    got, _ = run(tmp_path / "broken")
    assert weights(got) == weights(wanted)


def _forge_loss(path: Path) -> None:
    """A number that could be true, in a line that is sound JSON."""
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), "loss": 0.125}), *others, ""]))


@pytest.mark.parametrize(
    "harm",
    [_flip, _forge_loss, lambda path: path.write_bytes(b"\xff\0"), Path.unlink],
    ids=["flip", "loss", "junk", "gone"],
)
def test_a_damaged_log_is_put_aside_with_a_sentence_and_costs_nothing_else(harm, tmp_path, capsys):
    """Its lines were taken as they were, or ended in a stack of UTF-8; a number that had changed was signed as the run's."""
    wanted, _ = run(tmp_path / "whole", name="ijepa")
    _spoil(tmp_path / "broken")
    log = tmp_path / "broken" / "log.jsonl"
    first = _log(tmp_path / "broken")[0]["loss"]
    harm(log)
    there = log.exists()
    capsys.readouterr()
    got, _ = run(tmp_path / "broken", name="ijepa")
    assert weights(got) == weights(wanted)
    (said,) = capsys.readouterr().err.splitlines()
    aside = log.parent / "checkpoints" / "damaged_log.jsonl"
    happened = f"is damaged: put aside as {aside}" if there else "is gone"
    assert said == f"{log} as it was at step 35 {happened}; the run goes on, its weights are the same without it"
    assert aside.exists() == there
    rows = _untimed(_log(tmp_path / "broken"))
    assert rows == [row for row in _untimed(_log(tmp_path / "whole")) if row["step"] > 35]
    assert summarise(rows_with_speed(rows), loss_first=first)["loss_first"] == first


def rows_with_speed(rows: list[dict]) -> list[dict]:
    return [{**row, "images_per_s": 1.0} for row in rows]


def test_a_torn_line_beyond_the_checkpoint_is_no_damage(tmp_path, capsys):
    """What a kill leaves: the lines after the checkpoint are written again."""
    _spoil(tmp_path / "broken", "mae")
    with (tmp_path / "broken" / "log.jsonl").open("ab") as file:
        file.write(b'{"step": 40, "lo\xff')
    capsys.readouterr()
    run(tmp_path / "broken")
    run(tmp_path / "whole")
    assert capsys.readouterr().err == ""
    assert _untimed(_log(tmp_path / "broken")) == _untimed(_log(tmp_path / "whole"))


def test_a_checkpoint_of_an_earlier_version_knows_no_log_and_takes_its_lines(tmp_path, capsys):
    wanted, _ = run(tmp_path / "whole")
    for path in _spoil(tmp_path / "broken", "mae"):
        state = torch.load(path, weights_only=True)
        for name in ("lines", "loss_first"):
            del state["callbacks"]["RunLog"][name]
        path.unlink()
        torch.save(state, path.with_name(f"{path.name[:14]}.ckpt"))
    with (tmp_path / "broken" / "log.jsonl").open("ab") as file:
        file.write(b'{"step": 40, "lo\xff')
    got, _ = run(tmp_path / "broken")
    assert weights(got) == weights(wanted)
    assert _untimed(_log(tmp_path / "broken")) == _untimed(_log(tmp_path / "whole"))


@pytest.mark.parametrize("harm", [_flip, Path.unlink], ids=["flip", "gone"])
def test_damaged_reports_of_pruning_are_written_again_and_damaged_tables_put_aside(harm, tmp_path, capsys):
    """A finished run signed whatever lay there."""
    wanted, _ = run(tmp_path / "whole", keep=0.5)
    for _ in range(21):
        with pytest.raises(UserError):
            run(tmp_path / "short", keep=0.5, max_time="00:00:00:00")
    folder = tmp_path / "short" / "pruning"
    harm(folder / "events.json")
    harm(folder / "event_0001.parquet")
    capsys.readouterr()
    got, _ = run(tmp_path / "short", keep=0.5)
    assert weights(got) == weights(wanted)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{folder / 'event_0001.parquet'} as it was at step 21 is ")
    untimed = [
        [{key: value for key, value in event.items() if key != "cost"} for event in json.loads(path.read_text())]
        for path in (folder / "events.json", tmp_path / "whole" / "pruning" / "events.json")
    ]
    assert untimed[0] == untimed[1] and len(untimed[0]) == 3
    assert not (folder / "event_0001.parquet").exists() and (folder / "event_0002.parquet").exists()
