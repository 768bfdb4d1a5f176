"""``eo-ssl curate`` on a corpus of the sample archive: planted duplicates go, the product repeats, refusals are sentences."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from eo_ssl.cli import main
from eo_ssl.corpus import Corpus
from eo_ssl.curation import Candidates, CurationReport, Hierarchical, Random, Selector, SelectorResult
from eo_ssl.curation.embeddings import Scaling
from eo_ssl.errors import UserError
from eo_ssl.manifest import require
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows.curate import main as curate
from eo_ssl.workflows.ingest import main as ingest

S2 = "s2_boa_12b_10m_32px"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sensors, two places, two dates, one product of each sensor delivered twice."""
    folder = tmp_path_factory.mktemp("curate")
    make_archive(folder / "archive", seed=3, spec=ArchiveSpec(sites=2, dates=2, size_px=192))
    cards = ["sample_s2_l2a", "sample_s1_rtc"]
    ingest(cards, folder / "archive", folder / "corpus", size_px=32, dask="synchronous")
    return folder / "corpus"


def column(path: Path, name: str) -> np.ndarray:
    return pq.read_table(path)[name].to_numpy()


def test_every_pixel_copy_goes_and_the_rest_of_the_split_is_accounted_for(corpus: Path, tmp_path: Path) -> None:
    curate(corpus, tmp_path / "s", stream=S2, keep=0.3, duplicates="exact")
    reader, index = Corpus.open(corpus).stream(S2), Corpus.open(corpus).index(S2)
    train = np.flatnonzero(np.asarray(index["split"].to_pylist()) == "train")
    seen: dict[str, int] = {}
    copies = []
    for row, tile in zip(train, reader.read_stored(train), strict=True):  # the oracle hashes the pixels itself
        if seen.setdefault(hashlib.sha256(np.ascontiguousarray(tile).tobytes()).hexdigest(), row) != row:
            copies.append(int(row))
    kept, dropped = (column(tmp_path / "s" / f"{name}.parquet", "row") for name in ("subset", "dropped"))
    reason = np.asarray(pq.read_table(tmp_path / "s" / "dropped.parquet")["reason"].to_pylist())
    assert len(copies) >= 9
    assert dropped[reason == "duplicate"].tolist() == copies
    assert np.sort(np.concatenate([kept, dropped])).tolist() == train.tolist()
    assert len(kept) == round(0.3 * len(train))
    assert column(tmp_path / "s" / "subset.parquet", "weight").tolist() == [1.0] * len(kept)
    assert (np.diff(kept) > 0).all()

    report = CurationReport.from_json(json.loads((tmp_path / "s" / "curation_report.json").read_text()))
    manifest = require(tmp_path / "s", "curate")
    assert (report.n_rows, report.n_kept) == (len(train), len(kept))
    assert report.reasons == {"duplicate": len(copies), "not drawn": len(dropped) - len(copies)}
    assert report.corpus_fingerprint == manifest.inputs["corpus"] == Corpus.open(corpus).fingerprint
    assert manifest.config["stream"] == S2 and manifest.config["snapshot"] == 1
    assert report.after.top_entropy > report.chance.top_entropy  # type: ignore[operator]
    for example in report.examples:  # named by their rows in the snapshot
        assert set(example.kept) <= set(kept.tolist()) and set(example.dropped) <= set(dropped.tolist())


def test_tiles_of_one_acquisition_go_with_their_evidence_and_seasons_stay(corpus: Path, tmp_path: Path) -> None:
    """A slice of the radar archive comes twelve seconds later with a percent of noise: it goes, other dates do not."""
    opened = Corpus.open(corpus)
    stream = next(name for name in opened.streams if name.startswith("s1"))
    subset, exact = tmp_path / "s", tmp_path / "e"
    curate(corpus, subset, stream=stream, keep=1, split="all", method=Random())
    curate(corpus, exact, stream=stream, keep=1, split="all", method=Random(), duplicates="exact")
    index = opened.index(stream, columns=["product_id", "datetime", "location_id", "pixels_sha256"])
    dropped = pq.read_table(subset / "dropped.parquet").to_pylist()
    assert set(pq.read_table(exact / "dropped.parquet")["reason"].to_pylist()) == {"duplicate"}
    again = [row for row in dropped if row["reason"] == "same acquisition"]
    kept = set(column(subset / "subset.parquet", "row").tolist())
    assert len(again) >= 20 and kept == set(column(exact / "subset.parquet", "row").tolist()) - {
        r["row"] for r in again
    }
    rows = index.to_pylist()
    for row in dropped:
        here, there = rows[row["row"]], rows[row["repeats"]]
        assert row["repeats"] in kept and here["location_id"] == there["location_id"]
        apart = abs(np.datetime64(here["datetime"][:-1]) - np.datetime64(there["datetime"][:-1]))
        assert apart <= np.timedelta64(12, "s") and row["overlap"] >= 0.99 and row["correlation"] > 0.999
        assert (here["pixels_sha256"] == there["pixels_sha256"]) == (row["reason"] == "duplicate")
    report = json.loads((subset / "curation_report.json").read_text())
    assert report["reasons"] == {
        "duplicate": len(dropped) - len(again),
        "same acquisition": len(again),
        "not drawn": 0,
    }
    words = " ".join(report["notes"])
    assert f"{len(again)} pairs of tiles share ground and time: {len(again)} show the same pixels" in words
    days: dict[str, set[str]] = {}
    for row in kept:
        days.setdefault(rows[row]["location_id"], set()).add(rows[row]["datetime"][:10])
    seasons = sum(len(days[rows[row]["location_id"]]) > 1 for row in kept)
    assert (
        seasons > 100 and f"{seasons} tiles show a place that others show on another date: seasons, which stay" in words
    )
    config = require(subset, "curate").config
    assert config["duplicates"] == "drop" and config["bounds"]["min_overlap"] == 0.8
    assert "bounds" not in require(exact, "curate").config


def test_bounds_are_options_and_bad_ones_are_refused(corpus: Path, tmp_path: Path, capsys) -> None:
    stream = next(name for name in Corpus.open(corpus).streams if name.startswith("s1"))
    command = ["curate", "--corpus", str(corpus), "--stream", stream, "--keep", "1", "--out", str(tmp_path / "s")]
    assert main([*command, "--bounds.min_overlap", "80"]) == 2
    assert "got 80 and 0.85; give shares, not percent" in capsys.readouterr().err
    assert main([*command, "--split", "all", "--bounds.max_minutes", "0.1"]) == 0  # twelve seconds are too many
    assert "same acquisition" not in pq.read_table(tmp_path / "s" / "dropped.parquet")["reason"].to_pylist()


def test_the_same_command_repeats_resumes_and_refuses_another_configuration(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(out: Path, **options: object) -> str:
        curate(corpus, out, stream=S2, **options)  # type: ignore[arg-type]
        return require(out, "curate").fingerprint

    first = made(tmp_path / "a", keep=40, method=Hierarchical(levels=(12, 4), eta=float("inf")))
    assert made(tmp_path / "b", keep=40, method=Hierarchical(levels=(12, 4), eta=float("inf"))) == first
    assert made(tmp_path / "c", keep=40, method=Hierarchical(levels=(12, 4), eta=float("inf")), seed=1) != first
    capsys.readouterr()
    made(tmp_path / "a", keep=40, method=Hierarchical(levels=(12, 4), eta=float("inf")))
    assert "nothing to do" in capsys.readouterr().out

    before = json.loads((tmp_path / "b" / "manifest.json").read_text())
    for name in ("manifest.json", "dropped.parquet"):  # as if killed after the first file
        (tmp_path / "b" / name).unlink()
    begun = {key: before[key] for key in ("stage", "config", "inputs")}
    (tmp_path / "b" / "unfinished.json").write_text(json.dumps(begun))
    with pytest.raises(UserError, match="got an unfinished one"):
        require(tmp_path / "b", "curate")
    assert made(tmp_path / "b", keep=40, method=Hierarchical(levels=(12, 4), eta=float("inf"))) == first
    assert before["fingerprint"] == first
    assert (tmp_path / "b" / "dropped.parquet").read_bytes() == (tmp_path / "a" / "dropped.parquet").read_bytes()

    with pytest.raises(UserError, match=r"differs in config\.keep"):
        made(tmp_path / "a", keep=41, method=Hierarchical(levels=(12, 4), eta=float("inf")))
    assert made(tmp_path / "a", keep=1, duplicates="keep", split="all", overwrite=True) != first
    assert column(tmp_path / "a" / "subset.parquet", "row").tolist() == list(range(Corpus.open(corpus).count(S2)))


def test_power_is_embedded_in_decibel_and_random_is_a_method(corpus: Path, tmp_path: Path) -> None:
    stream = next(name for name in Corpus.open(corpus).streams if name.startswith("s1"))
    curate(corpus, tmp_path / "s", stream=stream, keep=30, method=Random(scaling="zscore"), encoder="rcf")
    report = json.loads((tmp_path / "s" / "curation_report.json").read_text())
    assert report["method"] == "random" and report["n_kept"] == 30 and sum(report["cluster_kept"]) == 30


def test_an_unnamed_or_unknown_stream_and_an_empty_split_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"expected one of the 2 streams of .*{S2}.*, got none"):
        curate(corpus, tmp_path / "s")
    with pytest.raises(UserError, match=f"did you mean '{S2}'"):
        curate(corpus, tmp_path / "s", stream="s2_boa_12b_10m_64px")
    with pytest.raises(UserError, match="expected a"):
        curate(corpus, tmp_path / "s", stream=S2, encoder=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"expected keep to be a fraction .* got 1\.5"):
        curate(corpus, tmp_path / "s", stream=S2, keep=1.5)
    assert not (tmp_path / "s").exists()


@dataclass(frozen=True)
class FromTheEnd(Selector):
    """A selector of a test: the last rows."""

    name: ClassVar[str] = "from the end"
    scaling: Scaling = "none"
    step: int = 1

    def pick(self, candidates: Candidates, target: int, rng: np.random.Generator) -> SelectorResult:
        rows = np.arange(len(candidates), dtype=np.int64)[:: -self.step][:target]
        return SelectorResult(np.sort(rows))


def test_a_new_selector_is_one_class_chosen_by_its_name(corpus: Path, tmp_path: Path, capsys) -> None:
    command = ["curate", "--corpus", str(corpus), "--stream", S2, "--split", "all", "--duplicates", "keep"]
    chosen = ["--keep", "3", "--method", "FromTheEnd", "--method.step", "2"]
    assert main([*command, "--out", str(tmp_path / "s"), *chosen]) == 0
    count = Corpus.open(corpus).count(S2)
    assert column(tmp_path / "s" / "subset.parquet", "row").tolist() == [count - 5, count - 3, count - 1]
    config = require(tmp_path / "s", "curate").config
    assert config["method"] == "from the end" and config["from the end"] == {"scaling": "none", "step": 2}
    capsys.readouterr()
    for wrong, words in (
        (["--method", "hierarchical"], "got 'hierarchical'; did you mean 'Hierarchical'?"),
        (
            ["--method", "os.system"],
            "expected method out of Density, FromTheEnd, Hierarchical, Random, Tempered, got 'os.system'",
        ),
        (["--hierarchical.eta", "1"], "expected --method.eta, got the earlier spelling --hierarchical.eta"),
    ):
        assert main([*command, "--out", str(tmp_path / "t"), *wrong]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


def test_an_option_of_the_default_selector_keeps_the_others_and_a_named_one_brings_its_own(
    corpus: Path, tmp_path: Path
) -> None:
    """Image statistics are curated on z-scores unless another selector, or another scaling, is named."""
    command = ["curate", "--corpus", str(corpus), "--stream", S2, "--keep", "3"]
    for options, name, scaling in (
        (["--method.eta", "1"], "hierarchical", "zscore"),
        (["--method", "Random"], "random", "l2"),
    ):
        assert main([*command, "--out", str(tmp_path / name), *options]) == 0
        config = require(tmp_path / name, "curate").config
        assert config["method"] == name and config[name]["scaling"] == scaling
