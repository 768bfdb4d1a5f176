"""``eo-ssl doctor PATH``: exit status, what it prints, a corpus, and real sets that must raise nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import rasterio
import yaml

from eo_ssl.cards import find_card_folder
from eo_ssl.cli import main
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows.ingest import main as ingest
from worlds.benchmarks import make_eurosat

SPEC = ArchiveSpec(sites=2, dates=2, size_px=144, exact_duplicates=0, near_duplicates=0, reprocessed=0)
CLEAN = (
    "s2_29rkh_l2a",
    "ssl4eo_patch_l1c",
    "eolearn_l1c",
    "csmask_sentinel2",
    "csmask_landsat5",
    "csmask_landsat7",
    "terramesh_s1rtc",
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    make_archive(folder, seed=3, spec=SPEC)
    return folder


def changed(card: str, folder: Path, **keys: object) -> str:
    """Path of a copy of a shipped card with other values."""
    content = yaml.safe_load((find_card_folder() / f"{card}.yaml").read_text()) | keys
    path = folder / f"{card}.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_the_sample_archive_is_clean_and_its_corpus_too(archive: Path, tmp_path: Path, capsys) -> None:
    for card in ("sample_s2_l2a", "sample_s1_rtc"):
        assert main(["doctor", str(archive), "--card", card]) == 0
    assert "4 examined" in capsys.readouterr().out
    ingest(["sample_s2_l2a", "sample_s1_rtc"], archive, tmp_path / "c", size_px=48, min_valid=0.0, dask="synchronous")
    capsys.readouterr()
    assert main(["doctor", str(tmp_path / "c"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["products"]) == 8 and "wrong" not in said["counts"]


def test_a_corpus_with_a_forgotten_scale_or_bands_in_another_order_is_wrong(
    archive: Path, tmp_path: Path, capsys
) -> None:
    content = yaml.safe_load((find_card_folder() / "sample_s2_l2a.yaml").read_text())
    files = {**content["files"], "B8A": "B09.tif", "B09": "B11.tif", "B11": "B12.tif", "B12": "B8A.tif"}
    card = changed("sample_s2_l2a", tmp_path, files=files)
    nameless = tmp_path / "nameless"  # files that say which band they hold are refused before anything is looked at
    shutil.copytree(archive, nameless)
    for path in nameless.glob("s2_l2a/*/B*.tif"):
        with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
            file.set_band_description(1, "")
    ingest([card], nameless, tmp_path / "c", size_px=48, min_valid=0.0, dask="synchronous")
    capsys.readouterr()
    assert main(["doctor", str(tmp_path / "c"), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    kinds = {item["kind"] for product in said["products"] for item in product["findings"] if item["outcome"] == "wrong"}
    assert kinds == {"order"}


def test_one_product_of_a_set_is_examined_where_it_lies(archive: Path, tmp_path: Path, capsys) -> None:
    one = next((archive / "s2_l2a").iterdir())
    card = changed("sample_s2_l2a", tmp_path, scale=1.0)
    assert main(["doctor", str(one), "--card", card]) == 1
    assert "1 examined, each counted by its gravest finding: 1 wrong" in capsys.readouterr().out
    assert main(["doctor", str(one), "--card", card, "--json"]) == 1
    (product,) = json.loads(capsys.readouterr().out)["products"]
    (wrong,) = (finding for finding in product["findings"] if finding["outcome"] == "wrong")
    assert "10,000 times too large" in wrong["sentence"] and wrong["remedy"] == {"scale": 0.0001}


def test_a_damaged_product_is_a_finding_and_the_rest_is_examined(archive: Path, tmp_path: Path, capsys) -> None:
    make_archive(tmp_path / "a", seed=3, spec=SPEC)
    band = sorted((tmp_path / "a" / "s2_l2a").glob("*/B04.tif"))[0]
    band.write_bytes(band.read_bytes()[:200])
    assert main(["doctor", str(tmp_path / "a"), "--card", "sample_s2_l2a", "--json"]) == 1
    said = json.loads(capsys.readouterr().out)["products"]
    assert [product["outcome"] == "wrong" for product in said] == [True, False, False, False]
    assert "B04.tif" in said[0]["findings"][0]["sentence"]


def test_a_path_without_a_card_and_a_missing_path_are_refused(archive: Path, capsys) -> None:
    assert main(["doctor", str(archive)]) == 2
    assert "name one with --card" in capsys.readouterr().err
    assert main(["doctor", str(archive / "nowhere"), "--card", "sample_s2_l2a"]) == 2
    assert "found nothing" in capsys.readouterr().err


@pytest.mark.parametrize("card", CLEAN)
def test_clean_real_sets_raise_nothing(card: str, real_data: Path, capsys) -> None:
    assert main(["doctor", card, "--data", str(real_data), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["counts"]) <= {"fine", "cannot tell"}


@pytest.mark.slow
def test_every_clean_real_set_raises_nothing(real_data: Path, capsys) -> None:
    for card in (
        "opera_rtc_s1",
        "terramesh_s2l1c",
        "terramesh_s2l2a",
        "s2_19udp_l1c",
        "hls_l30_patch",
        "worldcereal_s1",
        "worldcereal_s2_20m",
    ):
        assert main(["doctor", card, "--data", str(real_data), "--json"]) == 0
        assert "wrong" not in json.loads(capsys.readouterr().out)["counts"]


def test_chips_are_left_unjudged(real_data: Path, capsys) -> None:
    assert main(["doctor", "mstar_soc", "--data", str(real_data), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["counts"]) == {"cannot tell"}


def test_wrong_offsets_give_the_lines_for_the_card(real_data: Path, tmp_path: Path, capsys) -> None:
    content = yaml.safe_load((find_card_folder() / "terramesh_s2l1c.yaml").read_text())
    card = changed("terramesh_s2l1c", tmp_path, offset_by_file=dict.fromkeys(content["offset_by_file"], 0))
    assert main(["doctor", str(real_data), "--card", card]) == 1
    printed = capsys.readouterr().out
    paths = {f"terramesh_examples/S2L1C/{name}": offset for name, offset in content["offset_by_file"].items()}
    assert yaml.safe_load(printed[printed.index("offset_by_file:") :]) == {"offset_by_file": paths}


def test_a_benchmark_is_compared_with_its_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
    make_eurosat(tmp_path / "permuted", per_class=5, bands_order=order)
    assert main(["doctor", str(tmp_path / "permuted"), "--benchmark", "eurosat", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["products"]
    remedies = {finding["kind"]: finding for finding in found["findings"] if finding["outcome"] == "wrong"}
    assert remedies["order"]["remedy"]["bands"] == list(order)
    assert main(["doctor", str(tmp_path / "nothing"), "--benchmark", "eurosat"]) == 2
    assert "eurosat-train.txt" in capsys.readouterr().err


def test_the_generated_benchmark_raises_no_alarm_under_the_shipped_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_eurosat(tmp_path / "made", per_class=5)
    assert main(["doctor", str(tmp_path / "made"), "--benchmark", "eurosat", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["counts"] == {"cannot tell": 1}
    (about,) = [item for item in said["products"][0]["findings"] if item["kind"] == "metadata"]
    assert "generated images" in about["sentence"] and about["remedy"] == {}
    (tmp_path / "made" / "manifest.json").unlink()  # as if somebody had fetched so few images
    assert main(["doctor", str(tmp_path / "made"), "--benchmark", "eurosat"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "prove nothing" in printed and "in the card" not in printed
