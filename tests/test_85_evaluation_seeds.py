"""Several pretraining seeds are one line: its interval covers the spread between them, and one seed is what it always was."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eo_ssl.encoder import save_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.intervals import Bootstrap
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.seeds import load_candidates, parse_entry
from eo_ssl.evaluation.studies import VariantGrid, expand_study
from eo_ssl.evaluation.task_metrics import Measured, Runs, measure
from eo_ssl.manifest import Clock, finish
from eo_ssl.reporting.leaderboard import format_csv, format_markdown, render_leaderboard_page
from planted import planted, vit

Saved = Callable[..., str]
QUICK = Settings.of(["knn5"], shots=[2], draws=3, seed=0)


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Write encoders as `eo-ssl pretrain` does, by name."""

    def save(
        name: str, seed: int, *, weights: int | None = None, inputs: dict[str, str] | None = None, **config: Any
    ) -> str:
        made, folder = vit(), tmp_path / name
        origin: dict[str, Any] = {
            "config": {
                "objective": "mae",
                "steps": 10,
                "optimizer": {"clip": None},
                "training": {"precision": "auto"},
                "seed": seed,
            }
            | config,
            "inputs": inputs or {"corpus c": "abc"},
        }
        backbone = made.architecture.build(seed if weights is None else weights)
        product = save_encoder(folder, backbone, preprocessing=made.preprocessing, provenance=origin)
        finish(folder, stage="pretrain", config={}, inputs={}, product=product, started=Clock())
        return str(folder)

    return save


def answers(rng: np.random.Generator, seeds: int, items: int, *, spread: float, item_spread: float = 0.1) -> np.ndarray:
    """Right (1) or wrong (0), [seeds, items]: 70 %, more or less by the luck of the seed and the difficulty of the item."""
    luck, ease = rng.normal(0, spread, (seeds, 1)), rng.normal(0, item_spread, (1, items))
    return (rng.random((seeds, items)) < np.clip(0.7 + luck + ease, 0, 1)).astype(np.int64)


def measured(right: np.ndarray, name: str = "recipe") -> Measured:
    return measure("accuracy", right, np.ones(right.shape[1], np.int64), runs=Runs(len(right), name))


def seedless(right: np.ndarray) -> Measured:
    """The mean over the seeds as if no other seeds could have been drawn."""
    whole = measured(right)
    return replace(whole, terms=whole.terms.mean(axis=0, keepdims=True), runs=Runs())


def test_what_an_entry_stands_for(tmp_path: Path) -> None:
    (tmp_path / "lr=1").mkdir()
    there = str(tmp_path / "lr=1")
    plain = [parse_entry(text) for text in ("enc", "opt+sar", "timm:r?contract=imagenet", there, f"{there},{there}")]
    assert [(one.name, one.runs) for one in plain] == [
        (None, (("enc",),)),
        (None, (("opt", "sar"),)),
        (None, (("timm:r?contract=imagenet",),)),
        (None, ((there,),)),
        (None, ((there,), (there,))),
    ]
    named = parse_entry("mae tiny=runs/0+sar/0,runs/1+sar/1")
    assert (named.name, named.runs) == ("mae tiny", (("runs/0", "sar/0"), ("runs/1", "sar/1")))


def test_one_seed_is_todays_interval_to_the_bit(rng: np.random.Generator) -> None:
    a, b = (measured(answers(rng, 5, 300, spread=0.05)) for _ in range(2))
    boot = Bootstrap(np.arange(300) // 10, draws=5, seed=3)
    alone = [replace(one, runs=Runs()) for one in (a, b)]
    with pytest.raises(UserError, match=r"answers \[25, 300\]"):
        boot.interval(a)  # five runs of five draws
    named = [replace(one, runs=Runs(1, name)) for one, name in zip((a, b), "ab", strict=True)]
    assert boot.interval(named[0]) == boot.interval(alone[0])
    assert boot.compare(*named) == boot.compare(*alone)
    # Written down once.
    golden = Bootstrap(np.arange(40) // 4, draws=2, seed=0, replicates=500)
    right = (np.arange(80).reshape(2, 40) * 7 % 10 < 6).astype(np.int64)
    other = (np.arange(80).reshape(2, 40) * 3 % 11 < 7).astype(np.int64)
    found, pair = (
        golden.interval(measure("accuracy", right, np.ones(40, np.int64))),
        golden.compare(*(measure("accuracy", one, np.ones(40, np.int64)) for one in (right, other))),
    )
    assert [found.low, found.high, pair.low, pair.high, pair.p] == pytest.approx(
        [0.46309972702742397, 0.7540128070941468, -0.2724838176055956, 0.20426722012068071, 0.6571512906206484],
        rel=1e-12,
    )


def textbook(right: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Percentiles of 400 means over S of S seeds and n of n items, as it is mostly done."""
    seeds, items = (rng.multinomial(n, np.full(n, 1 / n), 400) / n for n in right.shape)
    low, high = np.quantile(((seeds @ right) * items).sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize(("seeds", "theirs"), [(3, 0.91), (10, 0.96)])
def test_the_interval_covers_a_planted_spread_between_seeds(seeds: int, theirs: float) -> None:
    """Seeds spread by 6 points: the seedless interval misses nearly half the time, and the textbook one is too narrow for few seeds."""
    rng, hits, wide, repeats = np.random.default_rng(5), np.zeros(3), 0.0, 400
    for repeat in range(repeats):
        right = answers(rng, seeds, 400, spread=0.06)
        boot = Bootstrap(np.arange(400), draws=1, seed=repeat, replicates=400)
        bounds = [(one.low, one.high) for one in map(boot.interval, (measured(right), seedless(right)))]
        bounds.append(textbook(right, rng))
        wide += (bounds[0][1] - bounds[0][0]) / repeats  # type: ignore[operator]
        hits += [low <= 0.7 <= high for low, high in bounds]  # type: ignore[operator]
    ours, blind, usual = hits / repeats
    print(f"{seeds} seeds: {ours:.3f} (+-{wide / 2:.3f}), seedless {blind:.3f}, textbook {usual:.3f}")
    assert 0.9 <= ours <= 0.99 and blind < 0.7 and usual < theirs


def test_seeds_alone_give_students_interval() -> None:
    # All items alike within a seed: what remains is a mean of five numbers.
    reached = np.array([50, 60, 70, 80, 90])
    rows = measured((np.arange(100) < reached[:, None]).astype(np.int64))
    even = replace(rows, terms=np.repeat(rows.terms.mean(axis=1, keepdims=True), 100, axis=1))
    alone = Bootstrap(np.arange(100), draws=1, seed=0).interval(even)
    half = 2.776 * reached.std(ddof=1) / 100 / np.sqrt(5)
    np.testing.assert_allclose([alone.low, alone.high], [0.7 - half, 0.7 + half], atol=0.2 * half)


def test_equal_recipes_are_rarely_separated_and_their_seeds_are_not_paired() -> None:
    rng, named, seedless_named, repeats = np.random.default_rng(6), 0, 0, 200
    for repeat in range(repeats):
        ease = rng.normal(0, 0.1, (1, 400))
        one, two = (
            (rng.random((3, 400)) < np.clip(0.7 + rng.normal(0, 0.06, (3, 1)) + ease, 0, 1)).astype(np.int64)
            for _ in range(2)
        )
        boot = Bootstrap(np.arange(400), draws=1, seed=repeat, replicates=400)
        p = boot.compare(measured(one, "one"), measured(two, "two")).p
        blind = boot.compare(seedless(one), seedless(two)).p
        assert p is not None and blind is not None
        named, seedless_named = named + (p < 0.05), seedless_named + (blind < 0.05)
    assert named <= 0.07 * repeats < 0.3 * repeats < seedless_named


def test_an_encoder_and_its_departure_share_the_luck_of_their_seeds(rng: np.random.Generator) -> None:
    right = answers(rng, 4, 500, spread=0.1)
    worse = right & (rng.random(right.shape) < 0.97)
    boot = Bootstrap(np.arange(500), draws=1, seed=0)
    same = boot.compare(measured(right, "ours"), measured(worse, "ours"))
    apart = boot.compare(measured(right, "ours"), measured(worse, "theirs"))
    assert same.p is not None and apart.p is not None and same.p < 0.05 < apart.p
    back = boot.compare(measured(worse, "theirs"), measured(right, "ours"))
    assert (back.low, back.high) == pytest.approx((-apart.high, -apart.low))  # type: ignore[operator]


def test_a_recipe_is_one_line_everywhere(rng: np.random.Generator, saved: Saved, tmp_path: Path) -> None:
    folders = [saved(f"s{seed}", seed) for seed in range(3)]
    task = planted(rng, 60)
    compared = load_candidates([f"mae={','.join(folders)}", saved("other", 7), "random=random_init@0,random_init@1"])
    assert [one.name for one in compared] == ["mae", "other", "random"]
    out, done = tmp_path / "out", list[int]()
    computing = Computing(cache=tmp_path / "f", progress=done.append)
    rows, comparisons = judge(task, compared, QUICK, out, computing=computing)
    mae, other, random = rows
    assert [row["pretraining_seeds"] for row in rows] == [3, 1, 0]
    assert "over 3 pretraining seeds, 3 draws of training samples and 30 blocks" in mae["interval"]
    assert "over 2 seeds of random weights, 3 draws" in random["interval"] and "seeds" not in other["interval"]
    assert mae["notes"] == ["3 pretraining runs (seeds 0, 1, 2): their spread is in the interval"]
    assert [run["seed"] for run in mae["runs"]] == [0, 1, 2] and "runs" not in other
    alone = [
        judge(task, load_candidates([folder]), QUICK, tmp_path / "alone", computing=computing)[0][0]
        for folder in folders
    ]
    assert [run["value"] for run in mae["runs"]] == pytest.approx([row["value"] for row in alone], abs=1e-12)
    assert [run["encoder_fingerprint"] for run in mae["runs"]] == [row["encoder_fingerprint"] for row in alone]
    assert mae["value"] == pytest.approx(np.mean([row["value"] for row in alone]))
    assert mae["high"] - mae["low"] > 0 and {(c["a"], c["b"]) for c in comparisons} == {
        ("mae", "other"),
        ("mae", "random"),
        ("other", "random"),
    }
    assert {c["family"] for c in comparisons} == {3} and all(c["p_holm"] >= c["p"] for c in comparisons)
    assert sum(done) == (3 + 1 + 2) * 60 + 3 * 60  # asked alone, the same seeds come out of the cache
    assert len(list((tmp_path / "f").iterdir())) == 6
    table, web = format_markdown(rows, comparisons), render_leaderboard_page(rows, comparisons)
    assert table.count("\n| mae [1] |") == 1 and "mae: 95% bootstrap" in table and "3 pretraining seeds" in web
    (line,) = [line for line in csv.DictReader(format_csv(rows, comparisons).splitlines()) if line["encoder"] == "mae"]
    assert line["pretraining_seeds"] == "3" and float(line["value"]) == mae["value"]
    done.clear()
    again = load_candidates(
        [f"mae={','.join(reversed(folders))}", str(tmp_path / "other"), "random=random_init@1,random_init@0"]
    )
    assert judge(task, again, QUICK, out, computing=computing) == (rows, comparisons) and not done
    assert len(list((out / "rows").iterdir())) == 3


def test_a_killed_run_keeps_the_seeds_it_finished(rng: np.random.Generator, saved: Saved, tmp_path: Path) -> None:
    folders, task, done = [saved(f"s{seed}", seed) for seed in range(2)], planted(rng, 60), list[int]()
    recipe = load_candidates([f"mae={','.join(folders)}"])
    computing = Computing(progress=done.append)
    first = judge(task, recipe, QUICK, tmp_path / "out", computing=computing)
    for path in ((tmp_path / "out" / "rows").iterdir(), list((tmp_path / "out" / "answers").iterdir())[:1]):
        for one in path:
            one.unlink()
    done.clear()
    assert judge(task, recipe, QUICK, tmp_path / "out", computing=computing) == first and sum(done) == 60


def test_one_named_run_is_the_run(rng: np.random.Generator, saved: Saved, tmp_path: Path) -> None:
    folder, task = saved("s0", 0), planted(rng, 60)
    rows = [
        judge(task, load_candidates([text, "rcf"]), QUICK, tmp_path / text[:3], computing=Computing())
        for text in (folder, f"mae={folder}")
    ]
    plain, named = (json.dumps(one).replace('"mae"', '"s0"') for one in rows)
    assert plain == named


def test_the_grid_of_a_recipe(rng: np.random.Generator, saved: Saved, tmp_path: Path) -> None:
    task = planted(rng, 60)
    recipe = load_candidates([f"mae={saved('s0', 0)},{saved('s1', 1)}"])
    compared = expand_study(recipe, task, "grid", grid=VariantGrid.of([16], ["contract", "zscore"], None), seed=0)
    rows, comparisons = judge(task, compared, QUICK, tmp_path / "out", computing=Computing())
    assert [(row["encoder"], row["pretraining_seeds"], len(row["runs"])) for row in rows] == [
        ("mae", 2, 2),
        ("mae | contract's size, zscore", 2, 2),
        ("mae | 16 px, contract", 2, 2),
        ("mae | 16 px, zscore", 2, 2),
    ]
    alike = comparisons[1]  # 16 px is the contract's own size: what the seeds differ in cancels
    assert (alike["b"], alike["difference"], alike["low"], alike["high"]) == ("mae | 16 px, contract", 0.0, 0.0, 0.0)
    assert "| mae | " in format_markdown(rows, comparisons) and "mae: planted" in format_markdown(rows, comparisons)
    blurred = expand_study(recipe, task, "robustness", grid=VariantGrid(), seed=0)
    (gain,) = [one for one in blurred if one.name == "mae | gain"]
    assert len(judge(task, [gain], QUICK, tmp_path / "gain", computing=Computing())[0][0]["runs"]) == 2


def test_runs_that_differ_in_more_than_their_seed_are_refused(saved: Saved) -> None:
    first = saved("s0", 0)
    for other, words in (
        (
            saved("long", 1, steps=20),
            r"seed alone, got steps 10 in s0 and 20 in long; give them .* or train them alike",
        ),
        (saved("clip", 1, optimizer={"clip": 1.0}), "got optimizer.clip None in s0 and 1.0 in clip"),
        (saved("extra", 1, lr=0.1, steps=20), r"got steps 10 in s0 and 20 in extra \(and 1 more\)"),
        (saved("data", 1, inputs={"corpus c": "def"}), "got inputs abc in s0 and def in data"),
        (saved("half", 1, training={"precision": "bf16"}), "got training.precision auto in s0 and bf16 in half"),
        (saved("again", 0, weights=9), "differ in their seed, got seed 0 in s0 and again; give one of them"),
        ("rcf", "runs of one recipe, each of as many sensors, got s0, rcf"),
        (f"{saved('s1', 1)}+rcf", "each of as many sensors, got rcf;"),
    ):
        with pytest.raises(UserError, match=words):
            load_candidates([f"mae={first},{other}"])
    same = saved("moved", 3, inputs={"corpus renamed": "abc"}, training={"precision": "auto", "log_every": 5})
    assert len(load_candidates([f"{first},{same}"])[0].runs) == 2
    with pytest.raises(UserError, match="each once"):
        load_candidates([f"mae={first},{same}", first])
    with pytest.raises(UserError, match="equal ones"):
        load_candidates([f"{first},{saved('copy', 0)}"])
    with pytest.raises(UserError, match="a name of its own for each encoder, got mae, mae"):
        load_candidates([f"mae={first}", f"mae={same}"])
    with pytest.raises(UserError, match="a name that is no other encoder's for s0, got rcf"):
        load_candidates([f"rcf={first},{same}"])
    with pytest.raises(UserError, match="differ in their seed, got seed 0 in rcf and rcf@0"):
        load_candidates(["rcf,rcf@0"])
    with pytest.raises(UserError, match="got 'imagestats@1'"):
        load_candidates(["imagestats@1"])
    with pytest.raises(UserError, match=r"which say configuration and seed, got none in timm"):
        load_candidates([f"{first},timm:resnet18@random?contract=imagenet&sensor=sentinel2_l1c&white=0.36"])
