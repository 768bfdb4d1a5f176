"""Where tiles come from, what may be done with them, how two corpora differ, and how a corpus says all that to others."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import zipfile
from pathlib import Path

import geopandas
import numpy as np
import pystac
import pytest
from pystac.validation import validate_dict

from eo_ssl.cards import Card, is_non_commercial, list_cards, load_card
from eo_ssl.cli import main
from eo_ssl.corpus import Corpus, IngestConfig, compare_corpora, ingest, provenance, select_rows
from eo_ssl.corpus.conditions import Condition
from eo_ssl.corpus.stac_collection import build_collection
from eo_ssl.curation import Random
from eo_ssl.errors import UserError
from eo_ssl.manifest import require
from eo_ssl.reporting import collect_report, render_report
from eo_ssl.workflows.curate import main as curate
from fake_scenes import FakeProduct, card, scenes

CONFIG = IngestConfig(size_px=16, min_valid=0.5, shares=(1.0, 0.0, 0.0))
STREAM = "s2_boa_b02b03b04_10m_16px"
RADAR_STREAM = "s1rtc_gamma0_vvvh_10m_16px"
RADAR = card(
    "radar",
    sensor="sentinel1_rtc",
    bands=("VV", "VH"),
    quantity="gamma0",
    labels=None,
    licence="CC BY-NC 4.0",
    attribution="somebody",
)


def run(products: list, out: Path, config: IngestConfig = CONFIG) -> Corpus:
    ingest(products, out=out, config=config, client="synchronous")
    return Corpus.open(out)


def radar(rng: np.random.Generator) -> FakeProduct:
    return FakeProduct("radar/0", RADAR, rng.gamma(4, 0.02, (2, 32, 32)).astype(np.float32))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A corpus of schema 1: twelve optical and four radar tiles, written before quality had looks and strata had months."""
    with zipfile.ZipFile(Path(__file__).parent / "data" / "corpus_schema1.zip") as file:
        file.extractall(tmp_path / "old")
    return tmp_path / "old" / "corpus"


# A corpus of the schema before.


def test_a_corpus_of_the_schema_before_is_still_read(old: Path) -> None:
    recorded = json.loads((old / "manifest.json").read_text())
    assert recorded["schema_version"] == 1
    corpus = Corpus.open(old)
    assert require(old, "ingest").fingerprint == corpus.fingerprint == recorded["fingerprint"]
    assert corpus.verify() == []  # its fingerprint is over the columns it was written with
    rows = corpus.index(STREAM).to_pylist()
    assert len(rows) == 12 and {row["cloud_fraction"] is None for row in rows} == {False}
    assert {(row["enl"], row["platform"], row["relative_orbit"]) for row in rows} == {(None, None, None)}
    assert np.isfinite(corpus.stream(STREAM).read(np.arange(12))).any()
    assert {key.month for key in corpus.statistics(STREAM).strata} == {0}
    assert [(item["card"], item["tiles"], item["licence"], item["non_commercial"]) for item in corpus.licences()] == [
        ("fake", 12, "CC0", False),
        ("radar", 4, "CC BY-NC 4.0", True),
    ]
    known = corpus.provenance(RADAR_STREAM, 3)
    assert known["terms"]["non_commercial"] and known["made_with"]["schema_version"] == 1


def test_a_corpus_of_the_schema_before_grows(old: Path, rng: np.random.Generator) -> None:
    before = Corpus.open(old)
    later = dataclasses.replace(scenes(rng, 1)[0], product_id="later/0", card=card("later"))
    after = run([later], old)
    assert (after.snapshot, after.count(STREAM), after.count(RADAR_STREAM)) == (2, 24, 4)
    assert after.verify() == [] and Corpus.open(old, snapshot=1).fingerprint == before.fingerprint
    assert {key.month: int(m.count[0] > 0) for key, m in after.statistics(STREAM).strata.items()} == {0: 1, 7: 1}
    found = compare_corpora(before, after)
    assert found["streams"][STREAM]["tiles"] == {"equal": 12, "only_in_second": 12}
    assert found["streams"][RADAR_STREAM]["tiles"] == {"equal": 4}


# Provenance.


def test_a_tile_knows_all_that_made_it(tmp_path: Path, rng: np.random.Generator, project_root: Path) -> None:
    products = scenes(rng, 3)
    corpus = run(products, tmp_path / "c")
    rows = corpus.index(STREAM).to_pylist()
    by_id = {product.product_id: product for product in products}
    for number in (0, 11, 12, len(rows) - 1):
        known = corpus.provenance(STREAM, number)
        row, product = rows[number], by_id[rows[number]["product_id"]]
        assert known["pixels_sha256"] == row["pixels_sha256"].hex() and known["tile_id"] == row["tile_id"].hex()
        assert known["source_sha256"] == known["fragment"]["checksum"] == product.checksum()
        assert known["processing_baseline"] == "03.01" and known["datetime"] == "2020-07-15T10:00:00Z"
        box = known["window"]
        source = product.image[:, box["row_off"] : box["row_off"] + 16, box["col_off"] : box["col_off"] + 16]
        tile = corpus.stream(STREAM).read([number])[0]
        np.testing.assert_allclose(tile, np.minimum(source, 3.2767), atol=0.51e-4)  # the window is where the pixels are
        assert known["made_with"]["config"] == CONFIG.to_json() and known["made_with"]["card"] == "fake"
        assert known["terms"] == {
            "licence": "CC0",
            "non_commercial": False,
            "attribution": "nobody",
            "source": "memory",
            "citation": "",
        }
    made = known["made_with"]["code"]
    assert (
        made == provenance.identify_code()
        and len(made["sha256"]) == 64
        and {"numpy", "gdal", "python"} <= set(made["packages"])
    )
    if (project_root / ".git").is_dir():
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=project_root, capture_output=True, text=True, check=True
        )
        assert made["commit"] == head.stdout.strip()
    with pytest.raises(UserError, match="rows of"):
        corpus.provenance(STREAM, len(rows))


def test_the_commit_is_read_without_git(tmp_path: Path) -> None:
    assert provenance.find_commit(tmp_path) == ""
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text(
        "# pack-refs\n" + "a" * 40 + " refs/heads/other\n" + "b" * 40 + " refs/heads/main\n"
    )
    assert provenance.find_commit(tmp_path) == "b" * 40
    (git / "refs" / "heads" / "main").write_text("c" * 40 + "\n")
    assert provenance.find_commit(tmp_path) == "c" * 40
    (git / "HEAD").write_text("d" * 40 + "\n")  # detached
    assert provenance.find_commit(tmp_path) == "d" * 40


# Licences.


@pytest.mark.parametrize(
    ("licence", "restricted"),
    [
        ("CC BY-NC 4.0", True),
        ("CC-BY-NC-SA-4.0", True),
        ("cc by-nc-nd 3.0 igo", True),
        ("free for non-commercial use", True),
        ("Noncommercial research only", True),
        ("CC BY 4.0", False),
        ("CC BY-SA 4.0: keep the share-alike note", False),
        ("CC0", False),
        ("Apache-2.0", False),
        ("NCSA", False),
        ("Copernicus Sentinel data: free, full and open", False),
    ],
)
def test_non_commercial_licences_are_known_by_their_words(licence: str, restricted: bool) -> None:
    assert is_non_commercial(licence) is restricted
    assert card(licence=licence).non_commercial is restricted


def test_a_card_may_say_more_than_its_licence_but_not_less() -> None:
    assert card(licence="terms of the provider", non_commercial=True).non_commercial
    with pytest.raises(
        UserError, match=r"expected card fake to be non_commercial with the licence 'CC BY-NC 4\.0', got false"
    ):
        card(licence="CC BY-NC 4.0", non_commercial=False)
    restricted = {name for name in list_cards() if load_card(name).non_commercial}
    assert {"mstar_pool", "mstar_soc", "mstar_soc_128"} <= restricted
    assert not restricted & {"terramesh_s2l2a", "eurosat", "opera_rtc_s1"}
    assert isinstance(load_card("eurosat"), Card)


def test_one_non_commercial_source_flags_the_corpus(tmp_path: Path, rng: np.random.Generator) -> None:
    free = run(scenes(rng, 2), tmp_path / "c")
    assert "non-commercial only" not in render_report(collect_report([tmp_path / "c"]))
    assert not free.describe()["non_commercial"] and require(tmp_path / "c", "ingest").summary["non_commercial"] == []
    assert build_collection(free)["license"] == "CC0" and not build_collection(free)["eo_ssl:non_commercial"]
    corpus = run([radar(rng)], tmp_path / "c")
    described = corpus.describe()
    assert described["non_commercial"] and [
        (i["card"], i["tiles"], i["non_commercial"]) for i in described["licences"]
    ] == [
        ("fake", 24, False),
        ("radar", 4, True),
    ]
    assert require(tmp_path / "c", "ingest").summary["non_commercial"] == ["radar"]
    said = json.loads((tmp_path / "c" / "collection.json").read_text())
    assert said["eo_ssl:non_commercial"] and said["license"] == "other"
    assert {provider["name"] for provider in said["providers"]} == {"nobody", "somebody"}
    assert "non-commercial only" in render_report(collect_report([tmp_path / "c"]))


# STAC.


def test_the_corpus_is_a_valid_stac_collection(tmp_path: Path, rng: np.random.Generator) -> None:
    first, second = scenes(rng, 2)
    later = dataclasses.replace(
        second, acquisition=dataclasses.replace(second.acquisition, datetime="2021-01-31", orbit="descending")
    )
    run([first], tmp_path / "c")
    corpus = run([first, later, radar(rng)], tmp_path / "c")
    said = json.loads((tmp_path / "c" / "collection.json").read_text())
    assert said == json.loads(json.dumps(build_collection(corpus))) and said["eo_ssl:snapshot"] == 2
    # the schemas of the core are in pystac; those of the extensions would have to be fetched
    validate_dict({**said, "stac_extensions": []}, stac_object_type=pystac.STACObjectType.COLLECTION)
    read = pystac.Collection.from_dict(said)
    assert read.id == "c" and read.extent.temporal.to_dict() == {
        "interval": [["2020-07-15T10:00:00Z", "2021-01-31T23:59:59Z"]]
    }
    frames = [geopandas.read_parquet(path) for path in (tmp_path / "c" / "fragments").glob("*/index.parquet")]
    bounds = np.stack([frame.total_bounds for frame in frames])
    np.testing.assert_allclose(read.extent.spatial.bboxes[0], [*bounds[:, :2].min(axis=0), *bounds[:, 2:].max(axis=0)])
    assert read.summaries.lists["sat:orbit_state"] == ["descending"] and read.summaries.lists["gsd"] == [10.0]
    assert read.summaries.lists["sar:polarizations"] == ["VH", "VV"]
    assert sorted(url.split("/")[3] for url in said["stac_extensions"]) == ["processing", "sar", "sat"]
    assert (tmp_path / "c" / read.assets["snapshot"].href).is_file()
    assert set(said["item_assets"]) == {
        f"{name}.{kind}" for name in (STREAM, RADAR_STREAM) for kind in ("index", "pixels")
    }
    assert said["eo_ssl:streams"][STREAM]["month"] == {"1": 12, "7": 12}


def test_a_corpus_without_places_and_times_is_a_valid_collection_too(tmp_path: Path, rng: np.random.Generator) -> None:
    product = scenes(rng, 1)[0]
    nowhere = dataclasses.replace(
        product, where={"crs": "", "transform": ()}, acquisition=dataclasses.replace(product.acquisition, datetime="")
    )
    said = build_collection(run([nowhere], tmp_path / "c"))
    validate_dict({**said, "stac_extensions": []}, stac_object_type=pystac.STACObjectType.COLLECTION)
    assert said["extent"] == {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}}


# Differences.


@pytest.mark.parametrize("batch", [1_000_000, 7])
def test_differences_are_those_that_were_planted(tmp_path: Path, rng: np.random.Generator, batch: int) -> None:
    first, second, third = scenes(rng, 3)
    one = run([first, second], tmp_path / "one")
    image = first.image.copy()
    image[0, 20, 20] += 0.1  # one pixel of one tile
    clouds = {name: layer.copy() for name, layer in first.layers.items()}
    clouds["cloud"][40:42, 40:42] = ~clouds["cloud"][40:42, 40:42]  # the quality of another
    changed = dataclasses.replace(first, image=image, layers=clouds)
    two = run([changed, third], tmp_path / "two", dataclasses.replace(CONFIG, codec="zstd"))
    found = compare_corpora(one, two, batch=batch)
    assert not found["same"]
    assert found["streams"][STREAM]["tiles"] == {
        "equal": 10,
        "only_in_first": 12,
        "only_in_second": 12,
        "other_pixels": 1,
        "other_quality": 1,
    }
    rows = found["streams"][STREAM]["rows"]
    (pixels,), (quality,) = rows["other_pixels"], rows["other_quality"]
    table = one.index(STREAM).to_pylist()
    assert (table[pixels]["row_off"], table[pixels]["col_off"]) == (16, 16)
    assert (table[quality]["row_off"], table[quality]["col_off"]) == (32, 32)
    assert {table[row]["product_id"] for row in rows["only_in_first"]} == {"fake/1"}
    assert found["settings"] == {"fake": {"codec": ["lz4", "zstd"]}}
    assert compare_corpora(one, one, batch=batch)["same"] and compare_corpora(one, one)["settings"] == {}


# Conditions.


def test_rows_are_chosen_by_conditions_as_by_hand(tmp_path: Path, rng: np.random.Generator) -> None:
    corpus = run(scenes(rng, 3), tmp_path / "c")
    rows = corpus.index(STREAM).to_pylist()
    for text, holds in {
        "cloud_fraction<0.3": lambda row: row["cloud_fraction"] < 0.3,
        "cloud_fraction >= 0.3": lambda row: row["cloud_fraction"] >= 0.3,
        "product_id!=fake/1": lambda row: row["product_id"] != "fake/1",
        "month==7": lambda row: True,
        "shadow_fraction<=1": lambda row: False,  # unknown
        f"valid_fraction=={rows[0]['valid_fraction']}": lambda row: row["valid_fraction"] == rows[0]["valid_fraction"],
    }.items():
        assert select_rows(corpus, STREAM, [text]).tolist() == [k for k, row in enumerate(rows) if holds(row)], text
    both = select_rows(corpus, STREAM, ["cloud_fraction<0.3", "product_id==fake/2"])
    assert both.tolist() == [
        k for k, row in enumerate(rows) if row["cloud_fraction"] < 0.3 and row["product_id"] == "fake/2"
    ]
    assert select_rows(corpus, STREAM, []).tolist() == list(range(len(rows)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cloud_fraction", "write column, comparison, value"),
        ("cloud_fraction<", "write column, comparison, value"),
        ("cloud_fractoin<0.2", "did you mean 'cloud_fraction'"),
        ("cloud_fraction<much", "expected a number to compare cloud_fraction with, got 'much'"),
        ("cloud_fraction<nan", "got 'nan'"),
        ("orbit<ascending", "only numbers have an order"),
        ("geometry==x", "expected a column of numbers or words"),
        ("__import__('os').system('true')", "write column, comparison, value"),
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        Condition.parse(text)
    assert words in str(error.value)


def test_curation_chooses_among_the_rows_that_meet_the_conditions(tmp_path: Path, rng: np.random.Generator) -> None:
    corpus = run(scenes(rng, 3), tmp_path / "c")
    wanted = select_rows(corpus, STREAM, ["cloud_fraction<0.3", "split==train"])
    options = {"method": Random(scaling="zscore"), "keep": 1.0, "split": "train", "where": ["cloud_fraction<0.3"]}
    curate(tmp_path / "c", tmp_path / "subset", stream=STREAM, **options)
    assert 0 < len(wanted) < 36 and require(tmp_path / "subset", "curate").summary["rows"] == len(wanted)
    assert require(tmp_path / "subset", "curate").config["where"] == ["cloud_fraction<0.3"]
    with pytest.raises(UserError, match="choose another split or other conditions"):
        curate(tmp_path / "c", tmp_path / "none", stream=STREAM, where=["cloud_fraction>2"])


# The command.


def shown(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, dict]:
    capsys.readouterr()
    status = main(["inspect", *options, "--format", "json"])
    return status, json.loads(capsys.readouterr().out)


def test_inspect_shows_verifies_and_compares_a_corpus(tmp_path: Path, rng: np.random.Generator, capsys) -> None:
    folder = str(tmp_path / "c")
    first, second, bad = scenes(rng, 3)
    bad.image[:] = np.nan
    run([first, bad], tmp_path / "c")
    run([first, second, bad, radar(rng)], tmp_path / "c")
    status, facts = shown(capsys, folder)
    assert status == 0 and facts["tiles"] == 28 and facts["non_commercial"] and facts["products"] == 3
    optical = facts["streams"][STREAM]
    assert optical["tiles"] == 24 and optical["month"] == {"7": 24} and optical["processing_baseline"] == {"03.01": 24}
    rows = Corpus.open(folder).index(STREAM).to_pylist()
    clouds = [row["cloud_fraction"] for row in rows]
    expected = {"known": 24, "mean": pytest.approx(np.mean(clouds)), "min": min(clouds), "max": max(clouds)}
    assert optical["quality"]["cloud_fraction"] == expected and "enl" not in optical["quality"]
    assert facts["quarantine"][0]["products"] == 1 and "valid pixels in fake/2" in facts["quarantine"][0]["reason"]
    status, tile = shown(capsys, folder, "--row", "5", "--stream", STREAM)
    assert status == 0 and tile["tile_id"] == rows[5]["tile_id"].hex()
    assert main(["inspect", folder, "--row", "5"]) == 2  # two streams
    assert shown(capsys, folder, "--verify") == (
        0,
        {"snapshot": 2, "fingerprint": Corpus.open(folder).fingerprint, "damaged": "nothing"},
    )
    status, found = shown(capsys, folder, "--snapshot", "1", "--diff_snapshot", "2")
    assert status == 1 and found["streams"][STREAM]["tiles"] == {"equal": 12, "only_in_second": 12}
    assert shown(capsys, folder, "--diff", folder)[0] == 0
    assert main(["inspect", folder]) == 0 and "cloud_fraction" in capsys.readouterr().out
    shard = next((tmp_path / "c").glob("fragments/*/*.zarr/c.0.0.0.0"))
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    status, found = shown(capsys, folder, "--verify")
    assert status == 1 and len(found["damaged"]) == 1 and "c.0.0.0.0 differs" in found["damaged"][0]
    assert main(["inspect", folder, "--verify", "--row", "1"]) == 2
