"""Places are held out whole, draws are paired and seeded, controls see what they may see, and finished rows are not computed again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eo_ssl.cards import load_card
from eo_ssl.corpus import Corpus, IngestConfig, Stream, ingest
from eo_ssl.errors import UserError
from eo_ssl.evaluation import twins
from eo_ssl.evaluation.candidates import candidates
from eo_ssl.evaluation.draws import Amount, draw
from eo_ssl.evaluation.features import CorpusSource
from eo_ssl.evaluation.mstar import mstar_task
from eo_ssl.evaluation.protocols import answer, check_protocols
from eo_ssl.evaluation.results import Computing, Settings, judge, write_comparisons
from eo_ssl.evaluation.splits import Places, divide, sites
from eo_ssl.evaluation.tasks import corpus_task
from eo_ssl.manifest import require
from eo_ssl.scene import products
from eo_ssl.sensors import Quantity
from eo_ssl.workflows.evaluate import main

TOA = Quantity.TOA_REFLECTANCE
S2 = Stream("sentinel2_l1c", TOA, ("B02", "B03", "B04", "B08", "B11", "B12"), 10.0, 8)
L5 = Stream("landsat5_tm", TOA, ("B1", "B2", "B3", "B4", "B5", "B7"), 30.0, 8)
CHIP = Stream("sar_chip", Quantity.AMPLITUDE, ("SAR",), 0.3, 64)
CROP = Stream("sar_chip", Quantity.AMPLITUDE, ("SAR",), 0.3, 128)
DEFAULTS: dict[str, Any] = {
    "product_id": "p", "row_off": 0, "col_off": 0, "height": 8, "width": 8, "xmin": None, "ymin": None, "xmax": None, "ymax": None, "label": 0,
    "label_name": "", "split": "train", "benchmark_split": "", "source": "", "source_width_px": None, "source_height_px": None,
    "month": None, "orbit": "", "attribution": "",
}  # fmt: skip
TYPES = {
    "xmin": pa.float64(),
    "ymin": pa.float64(),
    "xmax": pa.float64(),
    "ymax": pa.float64(),
    "source_width_px": pa.int32(),
    "source_height_px": pa.int32(),
    "month": pa.int32(),
}


@dataclass
class FakeReader:
    stream: Stream
    x: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def read(self, rows: np.ndarray, *, out: np.ndarray) -> np.ndarray:
        out[...] = self.x[rows]
        return out


@dataclass
class FakeCorpus:
    """The two tables of a corpus that a task reads."""

    parts: dict[str, tuple[Stream, np.ndarray, list[dict[str, Any]]]] = field(default_factory=dict)
    fingerprint: str = "fake"

    def add(self, stream: Stream, x: np.ndarray, rows: list[dict[str, Any]]) -> tuple[FakeCorpus, str]:
        self.parts[stream.name] = (stream, x.astype(np.float32), rows)
        return self, stream.name

    def stream(self, name: str) -> FakeReader:
        return FakeReader(*self.parts[name][:2])

    def index(self, name: str, *, columns: list[str]) -> pa.Table:
        rows = [{**DEFAULTS, **row} for row in self.parts[name][2]]
        return pa.table({key: pa.array([row[key] for row in rows], type=TYPES.get(key)) for key in columns})


def places(products: list[str], boxes: list[tuple[float, float, float, float]]) -> Places:
    return Places(np.array(products), np.array(boxes, dtype=np.float64), np.zeros((len(products), 4)))


def test_overlapping_products_are_one_site() -> None:
    # a and c overlap only through b; d is elsewhere; e has no georeference; two tiles of b lie apart.
    nan = (np.nan,) * 4
    found = sites(
        places(
            ["e", "a", "b", "b", "c", "d"],
            [nan, (0, 0, 2, 2), (1, 1, 2, 2), (3, 3, 4, 4), (3.5, 3.5, 6, 6), (9, 9, 10, 10)],
        )
    )
    assert found.tolist() == [0, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(("count", "folds"), [(2, 2), (4, 4), (13, 5)])
def test_each_site_is_tested_once_and_never_teaches_itself(rng: np.random.Generator, count: int, folds: int) -> None:
    site = rng.permutation(np.repeat(np.arange(count), rng.integers(2, 9, count)))
    division = divide(places([f"p{s}" for s in site], [(10.0 * s, 0, 10.0 * s + 1, 1) for s in site]))
    assert len(division.folds) == folds
    assert sorted(np.concatenate([fold.test for fold in division.folds])) == list(range(len(site)))
    for fold in division.folds:
        assert not set(site[fold.train]) & set(site[fold.test])
        assert len(fold.train) + len(fold.test) == len(site)


@pytest.mark.parametrize("flat", [True, False])
def test_single_site_is_cut_with_a_strip(flat: bool) -> None:
    y, x = (v.ravel() for v in np.mgrid[0:8, 0:12])
    boxes = np.stack([x, y, x + 1, y + 1], axis=1).astype(float)
    nan = np.full_like(boxes, np.nan)
    division = divide(Places(np.array(["p"] * 96), *((boxes, boxes) if flat else (nan, 8 * boxes))))
    assert sorted(np.concatenate([fold.test for fold in division.folds])) == list(range(96))
    for fold in division.folds:
        gap = np.abs(x[fold.train][:, None] - x[fold.test][None]).min()
        assert gap >= 2  # a whole column of tiles lies between
    assert len(np.unique(division.blocks)) == 16


def tiles(rng: np.random.Generator, stream: Stream, labels: np.ndarray) -> np.ndarray:
    """Tiles whose class is their brightness in the near infrared and nothing else."""
    x = 0.2 + 0.02 * rng.normal(size=(len(labels), 6, 8, 8))
    x[:, 3] += 0.2 * labels[:, None, None]
    return x


def scenes(rng: np.random.Generator) -> list[tuple[FakeCorpus, str]]:
    corpus, parts = FakeCorpus(), []
    for stream, product in ((S2, "s2"), (L5, "l5")):
        labels = np.arange(40) % 2
        rows = [
            {"product_id": product, "label": int(v), "label_name": ("dark", "green")[v], "split": "test"}
            for v in labels
        ]
        rows[0] = {**rows[0], "label": -1, "label_name": ""}
        if stream is S2:
            rows[1] |= {"label": 2, "label_name": "only here"}
        parts.append(corpus.add(stream, tiles(rng, stream, labels), rows))
    return parts


def test_cross_sensor_task_by_translated_names(rng: np.random.Generator) -> None:
    parts = scenes(rng)
    task = corpus_task(parts, name="scenes", sensor="sentinel2_l1c", held_out="all")  # type: ignore[arg-type]
    assert {source.bands for source in task.sources} == {S2.bands} and len(task.labels) == 78
    assert len(task.folds) == 2 and "leave one of 2 sites out" in task.split
    assert any("1 test tiles left out" in note for note in task.notes) and "only here" in task.class_names
    assert any("named as sentinel2_l1c" in note for note in task.notes)
    with pytest.raises(UserError, match="expected one sensor in task scenes"):
        corpus_task(parts, name="scenes", held_out="all")  # type: ignore[arg-type]


def test_generated_data_are_said_to_be(rng: np.random.Generator) -> None:
    labels, said = np.arange(40) % 2, []
    for owner in ("Synthetic data", "Contains modified Copernicus Sentinel data"):
        rows = [
            {"product_id": f"p{i // 10}", "label": int(v), "label_name": str(v), "attribution": owner}
            for i, v in enumerate(labels)
        ]
        part = FakeCorpus().add(S2, tiles(rng, S2, labels), rows)
        said.append([note for note in corpus_task([part], name="t", held_out="all").notes if "generated" in note])  # type: ignore[list-item]
    assert len(said[0]) == 1 and said[1] == []


def test_twins_are_the_same_ground_at_another_time_or_from_the_other_side(rng: np.random.Generator) -> None:
    """Rows of three places: one seen in January, June and July, one in January and February, one without georeference."""
    box = {"xmin": 1.0, "ymin": 2.0, "xmax": 1.01, "ymax": 2.01}
    there = {**box, "xmin": 3.0, "xmax": 3.01}
    rows = [
        {**box, "month": 1, "orbit": "R1-ascending"}, {**box, "month": 6, "orbit": "R2-descending"}, {**box, "month": 7, "orbit": "R1-ascending"},
        {**there, "month": 1, "orbit": "R3-descending"}, {**there, "month": 2, "orbit": "R3-ascending"}, {"month": 1}, {"month": 7},
    ]  # fmt: skip
    rows = [{**row, "product_id": f"p{i % 2}", "label": i % 2, "label_name": "ab"[i % 2]} for i, row in enumerate(rows)]
    radar = Stream("sentinel1_rtc", Quantity.GAMMA0, ("VV", "VH"), 10.0, 8)
    corpus, stream = FakeCorpus().add(radar, rng.random((7, 2, 8, 8)), rows)
    table = corpus.index(stream, columns=list(twins.COLUMNS))
    source = CorpusSource(
        corpus.stream(stream), np.arange(7), "sentinel1_rtc", Quantity.GAMMA0, ("VV", "VH"), 10.0, (2, 8, 8), "x"
    )  # type: ignore[arg-type]
    season, orbit = twins.twins_of(source, table)
    assert season.source.rows.tolist() == [2, 0, 0, 3, 4, 5, 6]  # six months apart, then five; a month is no season
    assert orbit.source.rows.tolist() == [1, 2, 1, 4, 3, 5, 6]  # the nearest in time from the other side
    assert "43 % of the tiles" in season.about and season.source.fingerprint != source.fingerprint
    optical = replace(source, sensor="sentinel2_l1c", quantity=TOA)
    assert [twin.name for twin in twins.twins_of(optical, table)] == ["season"]
    some = replace(source, rows=np.array([1, 4]))
    assert twins.twins_of(some, table)[0].source.rows.tolist() == [0, 4]  # also a tile that no label is known of


def test_tiles_that_pretraining_saw_are_not_tested(rng: np.random.Generator) -> None:
    corpus, labels = FakeCorpus(), np.arange(60) % 2
    rows = [
        {"product_id": f"p{i % 3}", "label": int(v), "label_name": str(v), "split": ("train", "val", "test")[i // 20]}
        for i, v in enumerate(labels)
    ]
    part = corpus.add(S2, tiles(rng, S2, labels), rows)
    unseen = corpus_task([part], name="t")  # type: ignore[list-item]
    assert set(unseen.tested) == set(range(20, 60)) and all(set(fold.train) <= set(range(20)) for fold in unseen.folds)
    assert len(corpus_task([part], name="t", held_out="all").tested) == 60  # type: ignore[list-item]
    for row in rows:
        row["split"] = "train"
    with pytest.raises(UserError, match="choose held_out = all"):
        corpus_task([part], name="t")  # type: ignore[list-item]


def test_corpus_task_refusals(rng: np.random.Generator) -> None:
    parts = scenes(rng)[:1]
    with pytest.raises(UserError, match="expected at least two classes"):
        corpus_task(parts, name="t", classes=["dark"])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected classes out of the labels dark, got 'water'"):
        corpus_task(parts, name="t", classes=["dark", "water"])  # type: ignore[arg-type]


def chips(rng: np.random.Generator, n: int = 120) -> tuple[tuple[FakeCorpus, str], tuple[FakeCorpus, str]]:
    """Chips whose size tells the class outright, whose clutter tells it, and whose target tells nothing."""
    labels, corpus = np.arange(n) % 3, FakeCorpus()
    wide = np.abs(0.2 + 0.02 * rng.normal(size=(n, 1, 128, 128)))
    wide[..., :16] += 0.1 * labels[:, None, None, None]  # beyond the centre 80 px
    wide[..., 40:88, 40:88] += rng.random((n, 1, 48, 48))
    rows = [
        {"product_id": "batch", "source": f"chip{i}", "label": int(v), "label_name": "abc"[v], "source_width_px": 128 + 10 * int(v), "source_height_px": 128,
         "benchmark_split": "train" if i < n // 2 else "test"}
        for i, v in enumerate(labels)
    ]  # fmt: skip
    order = rng.permutation(n)  # another corpus has another row order
    return corpus.add(CHIP, wide[..., 32:96, 32:96], rows), FakeCorpus().add(
        CROP, wide[order], [rows[i] for i in order]
    )


def test_mstar_controls_see_size_and_clutter_and_nothing_else(rng: np.random.Generator) -> None:
    task = mstar_task(*chips(rng)[:1], clutter=chips(np.random.default_rng(20261121))[1])  # type: ignore[arg-type]
    drawn = draw(task, Amount(shots=5), draws=5, seed=0)
    size, clutter, target = (
        (answer(task, [x], drawn, protocol="knn5", amount=Amount(shots=5), seed=0) == task.labels[task.tested]).mean()
        for x in (*(control.x for control in task.controls), _pixels(task))
    )
    assert size == 1.0 and clutter > 0.95 and target < 0.6
    assert task.controls[1].x.shape == (120, 1024) and np.array_equal(task.controls[0].x[:3, 0], [128, 138, 148])
    centre = task.controls[1].x.reshape(-1, 32, 32)[:, 8:24, 8:24]  # 8 .. 24 of 32 lie well inside 24 .. 104 of 128
    assert (centre == 0).all()


def _pixels(task: Any) -> np.ndarray:
    source = task.sources[0]
    out = np.empty((len(source), *source.shape), np.float32)
    source.read(np.arange(len(source)), out)
    return out.reshape(len(out), -1)


def test_mstar_needs_the_crop_of_every_chip(rng: np.random.Generator) -> None:
    small, wide = chips(rng)
    corpus, name = wide
    stream, x, rows = corpus.parts[name]
    corpus.parts[name] = (stream, x[1:], rows[1:])
    with pytest.raises(UserError, match=r"got none of 1, e\.g\. chip"):
        mstar_task(small, clutter=wide)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="expected crops of 128 px"):
        mstar_task(small, clutter=small)  # type: ignore[arg-type]


def test_draws_are_seeded_balanced_and_differ(rng: np.random.Generator) -> None:
    task = mstar_task(*chips(rng)[:1], clutter=chips(np.random.default_rng(20261121))[1])  # type: ignore[arg-type]
    first, again, other = (draw(task, Amount(shots=5), draws=4, seed=seed) for seed in (0, 0, 1))
    flat = [[rows[0].tolist() for rows in drawn] for drawn in (first, again, other)]
    assert flat[0] == flat[1] != flat[2] and len({tuple(rows) for rows in flat[0]}) == 4
    for rows in flat[0]:
        assert np.bincount(task.labels[rows]).tolist() == [5, 5, 5] and set(rows) <= set(task.folds[0].train.tolist())
    with pytest.raises(UserError, match="at least one shot"):
        Amount(shots=0)
    with pytest.raises(UserError, match="shots or a fraction"):
        Amount(shots=1, fraction=0.5)
    with pytest.raises(UserError, match="between 0 and 1, got 1"):
        Amount(fraction=1.0)


def test_a_fraction_takes_its_share_of_each_class(rng: np.random.Generator) -> None:
    task = mstar_task(*chips(rng)[:1], clutter=chips(np.random.default_rng(20261121))[1])  # type: ignore[arg-type]
    drawn = draw(task, Amount(fraction=0.25), draws=3, seed=0)
    counts = [np.bincount(task.labels[rows]).tolist() for (rows,) in drawn]
    assert counts == [[5, 5, 5]] * 3 and len({tuple(rows) for (rows,) in drawn}) == 3
    few = draw(task, Amount(fraction=0.001), draws=1, seed=0)[0][0]
    assert np.bincount(task.labels[few]).tolist() == [1, 1, 1]  # a class without a sample could not be told


def test_draws_are_of_chips_not_of_rows(rng: np.random.Generator) -> None:
    # Another ingest orders its rows differently; the same seed must still draw the same chips.
    small, wide = chips(rng)
    corpus, name = small
    stream, x, rows = corpus.parts[name]
    order = rng.permutation(len(rows))
    moved = FakeCorpus().add(stream, x[order], [rows[i] for i in order])
    drawn = []
    for part, names in ((small, rows), (moved, [rows[i] for i in order])):
        task = mstar_task(part, clutter=wide)  # type: ignore[arg-type]
        drawn.append(
            [sorted(names[i]["source"] for i in folds[0]) for folds in draw(task, Amount(shots=5), draws=3, seed=0)]
        )
    assert drawn[0] == drawn[1]


def test_one_shot_uses_one_neighbour(rng: np.random.Generator) -> None:
    # With k = 5 over one sample per class every vote ties and the lowest class would always win.
    task = mstar_task(*chips(rng)[:1], clutter=chips(np.random.default_rng(20261121))[1])  # type: ignore[arg-type]
    one = Amount(shots=1)
    drawn = draw(task, one, draws=5, seed=0)
    answers = answer(task, [task.controls[0].x], drawn, protocol="knn5", amount=one, seed=0)
    assert (answers == task.labels[task.tested]).all()


def test_rows_say_everything_and_a_second_run_computes_nothing(rng: np.random.Generator, tmp_path: Path) -> None:
    task = mstar_task(chips(rng, 48)[0], clutter=chips(np.random.default_rng(20261121), 48)[1])  # type: ignore[arg-type]
    compared, settings = (
        candidates(["imagestats", "rcf"]),
        Settings.of(("knn5", "linear"), shots=(1, 5), draws=5, seed=0),
    )
    done: list[int] = []
    computing = Computing(progress=done.append)
    rows, comparisons = judge(task, compared, settings, tmp_path, computing=computing)
    assert len(rows) == 4 * 2 * 2 and len(comparisons) == 4 * 6 and sum(done) == 2 * 48
    for row in rows:
        assert (
            row["low"] <= row["value"] <= row["high"]
            and row["n_test"] == row["n_blocks"] == 24
            and row["eval_seeds"] == 5
        )
        assert (
            row["n_train"] == 3 * row["shots"]
            and row["pretraining_seeds"] == 0
            and row["split"]
            and row["interval"].startswith("95% ")
        )
    assert {row["encoder"] for row in rows} == {"imagestats", "rcf", "control: chip size only", "control: clutter only"}
    size = [c for c in comparisons if c["a"] == "imagestats" and c["b"].startswith("control: chip size")]
    assert {c["verdict"] for c in size} == {"b"}  # a target that tells nothing loses to the size of the chip
    done.clear()
    (next((tmp_path / "rows").iterdir())).unlink()  # killed before its last row
    assert judge(task, compared, settings, tmp_path, computing=computing) == (rows, comparisons) and sum(done) <= 48
    done.clear()
    assert judge(task, compared, settings, tmp_path, computing=computing)[0] == rows and not done
    write_comparisons(tmp_path, comparisons)
    write_comparisons(tmp_path, comparisons)
    with pytest.raises(UserError, match="other comparisons"):
        write_comparisons(tmp_path, comparisons[:1])


def test_other_clutter_is_another_task_and_another_row(rng: np.random.Generator, tmp_path: Path) -> None:
    # Crops ingested again behind an unchanged stream of chips must not leave the old control in the table.
    part, settings = chips(rng, 48)[0], Settings.of(("knn5",), shots=(1,), draws=2, seed=0)
    first, second = (
        mstar_task(part, clutter=chips(np.random.default_rng(seed), 48)[1])  # type: ignore[arg-type]
        for seed in (1, 2)
    )
    assert first.fingerprint != second.fingerprint
    prints = [
        {
            row["encoder"]: row["encoder_fingerprint"]
            for row in judge(task, [], settings, tmp_path, computing=Computing())[0]
        }
        for task in (first, second)
    ]
    name = "control: clutter only"
    assert prints[0][name] != prints[1][name] and prints[0]["control: chip size only"]


def test_classes_that_never_share_two_sites_are_refused_in_a_sentence(rng: np.random.Generator) -> None:
    labels = np.arange(20) % 2
    rows = [{"product_id": f"p{v}", "label": int(v), "label_name": str(v), "split": "test"} for v in labels]
    part = FakeCorpus().add(S2, tiles(rng, S2, labels), rows)
    with pytest.raises(UserError, match="expected training and test samples in every fold of task t"):
        corpus_task([part], name="t", held_out="all")  # type: ignore[list-item]


def test_protocols_by_name() -> None:
    assert check_protocols(["linear", "knn5"]) == ("knn5", "linear")
    with pytest.raises(UserError, match="did you mean 'linear'"):
        check_protocols(["liner"])
    with pytest.raises(UserError, match="each protocol once"):
        check_protocols(["knn5", "knn5"])


@pytest.fixture(scope="module")
def csmask(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Path:
    out = tmp_path_factory.mktemp("csmask")
    found = [
        p
        for name in ("sentinel2", "landsat5", "landsat7")
        for p in products(load_card(f"csmask_{name}"), real_data).products
    ]
    ingest(found, out=out / "corpus", config=IngestConfig(size_px=16), client="synchronous")
    return out / "corpus"


def test_real_scenes_of_three_sensors_end_to_end(
    csmask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    streams = list(Corpus.open(csmask).streams)
    out = tmp_path / "results"
    options: dict[str, Any] = {
        "streams": streams,
        "sensor": "sentinel2_l1c",
        "held_out": "all",
        "cache": tmp_path / "cache",
        "device": "cpu",
    }
    main(["imagestats", "rcf"], "corpus", csmask, out, **options)
    rows = [json.loads(path.read_text()) for path in sorted((out / "rows").glob("*.json"))]
    assert len(rows) == 6 and all(row["n_blocks"] == 3 and "leave one of 3 sites out" in row["split"] for row in rows)
    assert max(row["value"] for row in rows) > 0.6  # cloud, shadow and land of another sensor's scene
    assert require(out, "evaluate").summary["test_items"] == rows[0]["n_test"]
    assert len(json.loads((out / "comparisons.json").read_text())) == 3
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    main(["imagestats", "rcf"], "corpus", csmask, out, **options)
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="--overwrite"):
        main(["imagestats", "rcf"], "corpus", csmask, out, **{**options, "seed": 1})


def test_workflow_refuses_what_it_has_no_use_for(csmask: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got sensor, streams"):
        main(["rcf"], "eurosat", tmp_path, tmp_path / "o", sensor="sentinel2_l1c", streams=["x"])
    with pytest.raises(UserError, match="expected one stream to choose"):
        main(["rcf"], "corpus", csmask, tmp_path / "o")
    with pytest.raises(UserError, match="each once, got rcf, rcf"):
        main(["rcf", "rcf"], "corpus", csmask, tmp_path / "o", streams=list(Corpus.open(csmask).streams)[:1])
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_real_mstar_sizes_give_the_class_away(real_data: Path, tmp_path: Path) -> None:
    # The size of a chip alone reaches 61 % of the SOC test chips (rule on sizes, full split): the control must show it.
    found = products(load_card("mstar_soc"), real_data).products
    ingest(found, out=tmp_path / "corpus", config=IngestConfig(size_px=64), client="threads")
    corpus = Corpus.open(tmp_path / "corpus")
    (name,) = corpus.streams
    table = corpus.index(
        name, columns=["label_name", "benchmark_split", "source_width_px", "source_height_px"]
    ).to_pandas()
    sizes = table.groupby(["source_width_px", "source_height_px"])
    train = table[table.benchmark_split == "train"]
    rule = train.groupby(["source_width_px", "source_height_px"]).label_name.agg(lambda names: names.mode()[0])
    test = table[table.benchmark_split == "test"]
    guess = [rule.get(key, "") for key in zip(test.source_width_px, test.source_height_px, strict=True)]
    assert len(test) == 3203 and sizes.ngroups > 3
    assert np.mean(test.label_name.to_numpy() == np.array(guess)) == pytest.approx(0.611, abs=0.01)
