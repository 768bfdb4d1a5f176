"""What people really feed a pipeline: each mistake is one sentence, and a reader of the corpus never sees half of anything."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from eo_ssl import commits
from eo_ssl.cards import find_card_folder
from eo_ssl.cli import main
from eo_ssl.corpus import Corpus
from eo_ssl.errors import UserError
from eo_ssl.sample import ArchiveSpec, make_archive

SPEC = ArchiveSpec(
    sites=1, dates=2, size_px=192, edge_share=0.0, cloud_cover=0.0, exact_duplicates=0, near_duplicates=0, reprocessed=0
)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    make_archive(folder, seed=5, spec=SPEC)
    return folder


@pytest.fixture
def card(tmp_path: Path) -> Callable[..., str]:
    """A copy of the sample card with some keys changed (None removes one)."""

    def write(**changes: object) -> str:
        keys = {**yaml.safe_load((find_card_folder() / "sample_s2_l2a.yaml").read_text()), **changes}
        path = tmp_path / "card.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in keys.items() if value is not None}))
        return str(path)

    return write


def scenes(archive: Path) -> list[Path]:
    return sorted((archive / "s2_l2a").iterdir())


def ingest(archive: Path, card: str, *more: str) -> int:
    return main(
        [
            "ingest",
            "--card",
            card,
            "--data",
            str(archive),
            "--out",
            str(archive.parent / "corpus"),
            "--dask",
            "synchronous",
            *more,
        ]
    )


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray] | None = None, **profile: object) -> None:
    with rasterio.open(path) as file:
        kept, pixels = file.profile, file.read()
    path.unlink()
    with rasterio.open(path, "w", **{**kept, **profile}) as file:
        file.write(change(pixels) if change else pixels)


def truncate(scene: Path) -> None:
    file = scene / "B04.tif"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: len(content) // 2])


def remove_band(scene: Path) -> None:
    (scene / "B11.tif").unlink()


def scale_twice(scene: Path) -> None:
    for file in scene.glob("B*.tif"):
        rewrite(file, lambda pixels: (pixels // 10000).astype(pixels.dtype) * 0 + 60000)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(truncate, "B04.tif"), (remove_band, "B11"), (scale_twice, "boa_reflectance")],
    ids=["truncated", "missing-band", "wrong-scale"],
)
def test_a_bad_product_is_put_aside_with_its_reason_and_the_rest_goes_on(
    archive: Path, card: Callable[..., str], spoil: Callable[[Path], None], words: str
) -> None:
    bad, *good = scenes(archive)
    spoil(bad)
    assert ingest(archive, card()) == 0
    corpus = Corpus.open(archive.parent / "corpus")
    (reason,) = corpus.quarantine()
    assert bad.name in reason["product_id"]
    assert words in reason["reason"]
    assert reason["reason"].startswith("expected ")
    (stream,) = corpus.streams
    products = set(corpus.index(stream, columns=["product_id"])["product_id"].to_pylist())
    assert {name.rpartition("/")[2] for name in products} == {scene.name for scene in good}


def test_a_wrong_declared_unit_is_refused_for_every_product(
    archive: Path, card: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest(archive, card(scale=1.0)) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert "expected" in printed
    assert not list((archive.parent / "corpus").glob("snapshots/*.json"))


def test_mixed_offsets_need_a_table_and_a_file_outside_it_is_refused_or_dropped(
    archive: Path, card: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    listed, stranger = scenes(archive)[:2]
    path = card(metadata=None, offset_by_file={listed.name: 0.0})
    assert ingest(archive, path) == 2
    assert stranger.name in capsys.readouterr().err
    assert not (archive.parent / "corpus").exists()
    assert ingest(archive, path, "--accept-unknown-offset", "drop") == 0
    assert f"left out {'card'}/{stranger.name}" in capsys.readouterr().out


def test_a_band_without_georeference_needs_a_named_grid_of_equal_shape(
    archive: Path, card: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    for scene in scenes(archive):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            rewrite(scene / "B05.tif", crs=None, transform=None)
    assert ingest(archive, card(grid_from=None)) == 2
    assert "B05" in capsys.readouterr().err
    assert not list((archive.parent / "corpus").glob("snapshots/*.json"))


def test_a_product_of_nodata_gives_no_tiles(archive: Path, card: Callable[..., str]) -> None:
    empty, *_ = scenes(archive)
    for file in [*empty.glob("B*.tif"), empty / "SCL.tif"]:
        rewrite(file, np.zeros_like)
    assert ingest(archive, card()) == 0
    corpus = Corpus.open(archive.parent / "corpus")
    (stream,) = corpus.streams
    assert empty.name not in " ".join(corpus.index(stream, columns=["product_id"])["product_id"].to_pylist())


def test_unknown_keys_are_refused_before_anything_is_read(
    archive: Path, card: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest(archive, card(nodta=0)) == 2
    assert "did you mean 'nodata'" in capsys.readouterr().err
    config = tmp_path / "config.yaml"
    config.write_text("sizepx: 64\n")
    assert ingest(archive, card(), "--config", str(config)) == 2
    assert "did you mean 'size_px'" in capsys.readouterr().err
    assert not (tmp_path / "corpus").exists()


def test_a_path_that_cannot_be_written_is_one_sentence(
    archive: Path, card: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (archive.parent / "corpus").write_text("a file where the folder should be")
    assert ingest(archive, card()) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_full_disk_leaves_no_half_corpus_and_the_same_command_resumes(
    archive: Path, card: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written, real = [0], os.fsync

    def full_after_three(handle: int) -> None:
        written[0] += 1
        if written[0] > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(commits.os, "fsync", full_after_three)
        assert ingest(archive, card()) == 2
    assert "full disk; free some space and run the same command again" in capsys.readouterr().err
    with pytest.raises(UserError):
        Corpus.open(archive.parent / "corpus")
    assert ingest(archive, card()) == 0
    resumed = Corpus.open(archive.parent / "corpus").fingerprint
    (archive.parent / "corpus").rename(archive.parent / "resumed")
    assert ingest(archive, card()) == 0
    assert Corpus.open(archive.parent / "corpus").fingerprint == resumed
