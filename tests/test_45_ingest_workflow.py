"""``eo-ssl ingest`` on the sample archive and on real files: what it prints, and pixels against the file's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eo_ssl.corpus import Corpus, IngestPlan, IngestReport
from eo_ssl.errors import UserError
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows.ingest import main

SPEC = ArchiveSpec(sites=1, dates=1, size_px=96, exact_duplicates=0, near_duplicates=0, reprocessed=0)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    make_archive(folder, seed=3, spec=SPEC)
    return folder


def test_a_dry_run_prints_and_writes_nothing_and_the_real_run_agrees(archive: Path, tmp_path: Path, capsys) -> None:
    cards = ["sample_s2_l2a", "sample_s1_rtc"]
    expected = main(cards, archive, tmp_path / "c", size_px=32, min_valid=0.0, dask="synchronous", dry_run=True)
    assert isinstance(expected, IngestPlan) and not (tmp_path / "c").exists()
    assert "2 products, 18 tiles" in capsys.readouterr().out
    report = main(cards, archive, tmp_path / "c", size_px=32, min_valid=0.0, dask="synchronous")
    assert isinstance(report, IngestReport) and sorted(report.streams.values()) == [9, 9]
    assert "snapshot 1: 18 tiles" in capsys.readouterr().out
    main(cards, archive, tmp_path / "c", size_px=32, min_valid=0.0, dask="synchronous")
    assert "nothing to do" in capsys.readouterr().out


def test_one_card_after_the_other_makes_the_same_corpus_as_both_together(archive: Path, tmp_path: Path) -> None:
    for card in ("sample_s2_l2a", "sample_s1_rtc"):
        main(card, archive, tmp_path / "one", size_px=32, min_valid=0.0, dask="synchronous")
    main(["sample_s1_rtc", "sample_s2_l2a"], archive, tmp_path / "both", size_px=32, min_valid=0.0, dask="synchronous")
    one, both = Corpus.open(tmp_path / "one"), Corpus.open(tmp_path / "both")
    assert one.fingerprint == both.fingerprint and (one.snapshot, both.snapshot) == (2, 1)


def test_an_unknown_band_is_refused_before_any_work(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got 'B77'"):
        main("sample_s2_l2a", archive, tmp_path / "c", size_px=32, bands=["B02", "B77"], dask="synchronous")
    assert not (tmp_path / "c" / "snapshots").exists()


def test_real_pixels_and_labels_are_those_of_the_file(real_data: Path, tmp_path: Path) -> None:
    main("csmask_sentinel2", real_data, tmp_path / "c", size_px=64, min_valid=0.0, dask="threads")
    corpus = Corpus.open(tmp_path / "c")
    ((name, stream),) = corpus.streams.items()
    rows = corpus.index(name).to_pylist()
    tiles = corpus.stream(name).read(np.arange(len(rows)))
    with np.load(real_data / "csmask_scenes" / "sentinel2.npz") as file:
        image, mask = file["img"].transpose(2, 0, 1), file["msk"][..., 0]
    assert stream.bands == ("B02", "B03", "B04", "B08", "B11", "B12") and len(rows) == 64
    names = {0: "cloud shadow", 1: "water", 2: "snow", 3: "land", 4: "cloud"}
    for row, tile in zip(rows, tiles, strict=True):
        box = np.s_[row["row_off"] : row["row_off"] + 64, row["col_off"] : row["col_off"] + 64]
        valid = np.isfinite(tile)
        assert valid.all() and row["valid_fraction"] == 1
        assert np.abs(tile - image[(slice(None), *box)]).max() <= 0.51e-4
        assert row["cloud_fraction"] == pytest.approx((mask[box] == 4).mean())
        shares = np.bincount(mask[box].ravel(), minlength=5) / 64**2
        assert row["label_fraction"] == pytest.approx(shares.max())
        assert row["label_name"] == (names[int(shares.argmax())] if shares.max() >= 0.8 else "")
    assert {row["label_name"] for row in rows} == {"land", ""}  # no tile of 64 px is 80 % cloud
