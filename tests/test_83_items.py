"""Items: pairs of two streams and of two dates, places with several dates; a run on each through the commands."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors
import shapely
import torch

import exported
from eo_ssl.cli import main
from eo_ssl.corpus import Corpus
from eo_ssl.encoder import FUSION_FILE, FusedEncoder, load_encoder, load_fused_encoder, save_fusion
from eo_ssl.errors import UserError
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.image_metadata import INDEX_COLUMNS, read_index_metadata
from eo_ssl.manifest import require
from eo_ssl.models import ChannelVit, Vit
from eo_ssl.objectives import Croma, Mae, MultiMae, SimClr, ViewSpec
from eo_ssl.pairing import PairConfig
from eo_ssl.pretraining import (
    DataSelection,
    FitConfig,
    ItemSampler,
    Lora,
    Pairs,
    Places,
    Tiles,
    TileSource,
    ViewMaker,
    Whole,
    open_training_data,
)
from eo_ssl.pretraining.loader import ItemLoader
from eo_ssl.pretraining.tile_source import tell_places
from eo_ssl.pretraining.training_data import Kind, rank_values
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.sensors import Quantity
from eo_ssl.workflows import ingest, pair, pretrain
from planted import Images
from runs import FakeReader, FakeStream, preprocessing
from two_sensors import make_fused

EPOCH = datetime(2015, 1, 1, tzinfo=UTC)
QUICK = {"steps": 4, "batch_size": 4, "training": FitConfig(log_every=2, monitor_every=4, monitor_tiles=8)}


@dataclass(frozen=True)
class RadarStream(FakeStream):
    bands: tuple[str, ...] = ("VV", "VH")
    sensor: str = "sentinel1_rtc"
    quantity: Quantity = Quantity.GAMMA0
    name: str = "radar"


class CountingReader(FakeReader):
    """Tiles that hold 1000 times the stream's number plus their own."""

    def tile(self, row: int) -> np.ndarray:
        return np.full((len(self.stream.bands), 16, 16), self.base + row, dtype=np.float32)


def numbers(tiles: torch.Tensor) -> np.ndarray:
    """The number that each tile [n, dates, C, S, S] holds: [n, dates]."""
    flat = tiles.flatten(2)
    assert torch.equal(flat.amin(2), flat.amax(2))
    return flat.amin(2).numpy()


def test_row_i_of_every_stream_is_item_i() -> None:
    optical, radar = TileSource([CountingReader(9)]), TileSource([CountingReader(7, stream=RadarStream(), base=1000)])
    tiles = Tiles(optical, preprocessing())
    assert numbers(tiles.read(np.array([3, 1]))["tile"]).tolist() == [[3], [1]]
    contracts = {"s1": preprocessing(), "s2": preprocessing()}
    pairs = Pairs({"s1": radar, "s2": optical}, contracts, np.array([6, 0, 3]), np.array([2, 8, 2]))
    assert (len(pairs), pairs.dates) == (3, 1)
    read = pairs.read(np.array([2, 0]))
    assert numbers(read["s1"]).tolist() == [[1003], [1006]] and numbers(read["s2"]).tolist() == [[2], [2]]
    within = Pairs({"tile": optical}, {"tile": preprocessing()}, np.array([0, 5]), np.array([4, 1]))
    assert within.dates == 2 and numbers(within.read(np.array([1, 0]))["tile"]).tolist() == [[5, 1], [0, 4]]


def test_dates_of_a_place_are_spread_and_none_is_used_twice() -> None:
    source = TileSource([CountingReader(14)])
    location = rank_values(pa.chunked_array([["a"] * 7 + ["b"] * 3, ["a"] * 2 + ["c"] * 2]))
    months = (1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 9, 8, 5, 5)
    moment = rank_values(pa.chunked_array([[f"2023-{month:02d}-01" for month in months]]))
    assert location.tolist() == [0] * 7 + [1] * 3 + [0] * 2 + [2] * 2
    assert moment.tolist() == [month - 1 for month in months]  # from January to September
    usable = np.arange(14) != 9
    places = Places(source, preprocessing(), location, moment, dates=2, usable=usable)
    # a: rows 0 to 6 and, later, 11 (August) and 10 (September), nine dates: four items; b: two usable dates; c: one moment
    members = places.members("tile", np.arange(len(places)))
    assert members.tolist() == [[0, 4], [1, 5], [2, 6], [3, 11], [7, 8]]
    assert numbers(places.read(np.array([3]))["tile"]).tolist() == [[3, 11]]
    three = Places(source, preprocessing(), location, moment, dates=3, usable=usable)
    assert three.members("tile", np.arange(len(three))).tolist() == [[0, 3, 6], [1, 4, 11], [2, 5, 10]]
    with pytest.raises(UserError, match="places with 10 dates, got at most 9 of a place: lower --dates"):
        Places(source, preprocessing(), location, moment, dates=10, usable=usable)
    with pytest.raises(UserError, match="at least two dates of a place, got 1"):
        Places(source, preprocessing(), location, moment, dates=1, usable=usable)


def test_drawn_dates_of_a_place_are_any_two_of_it_anew_for_each_seed() -> None:
    source = TileSource([CountingReader(9)])
    location, moment = np.array([0, 0, 0, 0, 1, 2, 2, 2, 2]), np.array([3, 1, 2, 0, 0, 5, 4, 4, 4])
    places = Places(source, preprocessing(), location, moment, dates=2, usable=np.arange(9) != 8, drawn=True)
    assert places.members("tile", np.arange(len(places))).tolist() == [[3, 2], [6, 5]]  # place 1 has one date
    rows = np.array([1, 0, 0])
    drawn = np.array([places.members("tile", rows, seed=seed) for seed in range(1200)])
    assert np.array_equal(drawn[7], places.members("tile", rows, seed=7))
    assert {tuple(pair) for pair in drawn[:, 0].tolist()} == {(5, 6), (6, 5)}
    pairs, counts = np.unique(drawn[:, 1], axis=0, return_counts=True)
    assert len(pairs) == 12 and set(pairs.ravel()) == {0, 1, 2, 3} and (pairs[:, 0] != pairs[:, 1]).all()
    assert abs(counts - 100).max() < 40  # four standard deviations
    assert not np.array_equal(drawn[:, 1], drawn[:, 2])
    assert numbers(places.read(rows, seed=7)["tile"]).tolist() == drawn[7].tolist()
    with pytest.raises(UserError, match="places with 5 dates, got at most 4 of a place"):
        Places(source, preprocessing(), location, moment, dates=5, usable=np.ones(9, bool), drawn=True)


def test_time_and_place_of_tiles_across_the_antimeridian_and_unknown() -> None:
    moments = pa.chunked_array([["2015-01-02T12:00:00Z", ""], ["2014-12-31", "2020-01-01T00:00:00.500000Z"]])
    bounds = [[10, 44, 12, 48], [179, -2, -177, 0], [178, 0, -179.5, 1], [np.nan] * 4]
    columns = {
        name: pa.array(part, pa.float64())
        for name, part in zip(INDEX_COLUMNS[1:5], np.array(bounds, float).T, strict=True)
    }
    columns |= {"gsd_m": [10.0, 10, 20, 0.3], "incidence_deg": pa.array([None, 39.5, None, 20], pa.float32())}
    found = read_index_metadata(pa.table({"datetime": moments, **columns}))
    assert found.dtype == np.float32
    nan = np.nan
    wanted = [[1.5, 11, 46, 10, nan], [nan, -179, -1, 10, 39.5], [-1, 179.25, 0.5, 20, nan], [1826, nan, nan, 0.3, 20]]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_tiles_of_one_cell_on_other_ground_are_other_places() -> None:
    """They used to be dates of one place."""
    unit, far = np.array([0, 0, 1, 1.0]), np.array([179.5, 0, -179.5, 1])
    east = [unit + shift * np.array([1, 0, 1, 0]) for shift in (0, 0.8, 0.1, 0.9, 1.6)]
    bounds = np.array([*east, far, far + [0, 0.6, 0, 0.6], far, [np.nan] * 4, [np.nan] * 4])
    cells = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
    assert tell_places(cells, bounds).tolist() == [0, 1, 0, 1, 2, 3, 4, 3, 6, 6]
    assert tell_places(cells[8:], bounds[8:]).tolist() == [2, 2] and tell_places(cells[:0], bounds[:0]).tolist() == []


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both sensors and three dates of two sites on one grid."""
    root = tmp_path_factory.mktemp("items")
    spec = ArchiveSpec(
        sites=2, dates=3, size_px=192, edge_share=0.0, exact_duplicates=0, near_duplicates=0, reprocessed=0
    )
    make_archive(root / "archive", seed=1, spec=spec)
    for card in ("sample_s2_l2a", "sample_s1_rtc"):
        ingest.main(
            card,
            data=root / "archive",
            out=root / "corpus",
            size_px=32,
            tiling="grid",
            min_valid=0.5,
            dask="synchronous",
            shares=(0.6, 0.2, 0.2),
        )
    return root / "corpus"


def streams(corpus: Path) -> tuple[str, str]:
    """Radar and optical stream."""
    names = list(Corpus.open(corpus).streams)
    return next(name for name in names if name.startswith("s1")), next(name for name in names if name.startswith("s2"))


def test_two_sensors_of_a_pair_train_an_encoder_each(corpus: Path, tmp_path: Path) -> None:
    radar, optical = streams(corpus)
    pair.main(corpus, tmp_path / "pairs", first=radar, second=optical, bounds=PairConfig(max_days=60))
    data = open_training_data(DataSelection((corpus,), kind="pairs", pairs=tmp_path / "pairs"))
    table = pq.read_table(tmp_path / "pairs" / "pairs.parquet")
    assert len(data.items) == len(table) > 8
    split = {
        name: np.array(Corpus.open(corpus).index(name, columns=["split"])["split"].to_pylist())
        for name in (radar, optical)
    }
    train = (split[radar][table["row_a"].to_numpy()] == "train") & (
        split[optical][table["row_b"].to_numpy()] == "train"
    )
    assert np.array_equal(data.pool, np.flatnonzero(train))
    out = tmp_path / "encoder"
    pretrain.main(corpus, out, items="pairs", pairs=tmp_path / "pairs", objective=SimClr(), model=Vit(depth=1), **QUICK)
    manifest = require(out, "pretrain")
    assert set(manifest.config["preprocessing"]) == {"s1", "s2"} and manifest.config["streams"] == [radar, optical]
    radar_encoder, optical_encoder = load_encoder(out / "s1"), load_encoder(out / "s2")
    assert radar_encoder.preprocessing.bands == ("VV", "VH") and radar_encoder.preprocessing.final_quantity.is_db
    assert len(optical_encoder.preprocessing.bands) == 12
    assert require(out / "s1", "pretrain").fingerprint == radar_encoder.fingerprint != optical_encoder.fingerprint
    with pytest.raises(UserError, match="expected views of every stream of the items, got none of s2"):
        pretrain.main(corpus, tmp_path / "mae", items="pairs", pairs=tmp_path / "pairs", objective=Mae(), **QUICK)
    with pytest.raises(UserError, match="expected a folder of pairs with items pairs and only then, got items tiles"):
        pretrain.main(corpus, tmp_path / "mae", pairs=tmp_path / "pairs", **QUICK)


def plant_task(fused: FusedEncoder) -> tuple[Task, list[Images]]:
    """A task whose class is the sum of two bits, one seen by each sensor, and its images, optical first."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (60, 2))
    sources = []
    for bit, (encoder, level) in enumerate(((fused.optical, 0.1), (fused.radar, 0.05))):
        contract = encoder.preprocessing
        image = level * (1 + bits[:, bit, None, None, None] + 0.1 * rng.random((60, len(contract.bands), 32, 32)))
        sources.append(Images(image.astype(np.float32), contract.bands, contract.sensor, contract.quantity))
    rows = np.arange(60)
    labels, fold = 2 * bits[:, 0] + bits[:, 1], Fold(rows[:40], rows[40:], rows[:0])
    task = Task(
        "both", (sources[0],), labels, tuple("abcd"), rows, (fold,), "parts", "accuracy", partners=(sources[1],)
    )
    return task, sources


def test_two_sensors_train_an_encoder_each_and_one_of_both(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    radar, optical = streams(corpus)
    pair.main(corpus, tmp_path / "pairs", first=radar, second=optical, bounds=PairConfig(max_days=60))
    out, page, model = tmp_path / "both", tmp_path / "page", Vit("test_vit", depth=1, position="alibi")
    pretrain.main(corpus, out, items="pairs", pairs=tmp_path / "pairs", objective=Croma(), model=model, **QUICK)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert {"contrast", "radar", "optical", "rankme"} <= set().union(*log)
    alone = {stream: load_encoder(out / stream) for stream in ("s1", "s2")}
    gen = torch.Generator().manual_seed(0)
    larger = {stream: torch.randn(3, bands, 64, 64, generator=gen) for stream, bands in (("s1", 2), ("s2", 12))}
    assert all(encoder.at_size(64).features(larger[stream]).shape == (3, 64) for stream, encoder in alone.items())
    fused = load_fused_encoder(out)
    x = [torch.randn(3, bands, 32, 32, generator=gen) for bands in (2, 12)]
    with torch.no_grad():
        found = fused.features(*x)
        tokens = [alone[stream].tokens(one) for stream, one in zip(("s1", "s2"), x, strict=True)]
        places = torch.arange(16)[None]
        wanted = fused.fusion(*tokens, (places, places), columns=4).mean(dim=1)
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(found, fused.features(x[0], x[1].flip(0)))  # both sensors count
    task, sources = plant_task(fused)
    settings = Settings.of(["knn5"], shots=[0], draws=1, seed=0)
    compared = load_candidates([str(out), f"{out / 's2'}+{out / 's1'}"])
    for _ in range(2):  # computed, and read from the cache
        shown: list[int] = []
        computing = Computing(batch_size=16, cache=tmp_path / "cache", progress=shown.append)
        rows_of, _ = judge(task, compared, settings, tmp_path / "results", computing=computing)
        x = compared[0].features(task, computing)[0]
    assert [row["encoder"] for row in rows_of] == ["both", "s2+s1"] and rows_of[0]["value"] > 0.8
    assert x.shape == (60, 64) and sum(shown) % 120 == 0
    first = [
        encoder.preprocessing(
            torch.from_numpy(source.x[:1]), bands=source.bands, quantity=source.quantity, sensor=source.sensor
        )[0]
        for encoder, source in ((fused.radar, sources[1]), (fused.optical, sources[0]))
    ]
    np.testing.assert_allclose(x[:1], fused.features(*first).detach(), rtol=1e-4, atol=1e-5)
    assert compared[0].identity(task) != compared[1].identity(task)
    with pytest.raises(UserError, match="an encoder of one sensor for a study of its input, got both"):
        compared[0].vary("x", lambda part: part)
    with pytest.raises(
        UserError,
        match="images of two sensors for both, got those of sentinel2_l2a in both; name the encoder of one sensor, ",
    ):
        compared[0].features(dataclasses.replace(task, partners=()))
    with pytest.raises(UserError, match=r"an encoder of two sensors in .*s1, got none"):
        load_fused_encoder(out / "s1")
    embedded = ["embed", "--encoder", str(out), "--source", str(corpus), "--pairs", str(tmp_path / "pairs")]
    assert main([*embedded, "--out", str(tmp_path / "vectors"), "--batch_size", "7"]) == 0
    table = pq.read_table(tmp_path / "vectors" / "embeddings.parquet")
    kept = pq.read_table(tmp_path / "pairs" / "pairs.parquet").to_pandas()
    index = Corpus.open(corpus).index(optical, columns=["tile_id"])["tile_id"].to_pylist()
    assert table["tile_id"].to_pylist() == [index[row] for row in sorted(set(kept["row_b"]))]
    row = sorted(set(kept["row_b"]))[5]
    partners = kept[kept["row_b"] == row]
    partner = partners.loc[partners["days"].abs().idxmin(), "row_a"]
    ready = []
    for encoder, name, at in ((fused.radar, radar, partner), (fused.optical, optical, row)):
        reader = Corpus.open(corpus).stream(name)
        tag, tile = reader.stream, torch.from_numpy(reader.read(np.array([at])))
        ready.append(encoder.preprocessing(tile, bands=tag.bands, quantity=tag.quantity, sensor=tag.sensor)[0])
    vector = np.array(table["embedding"][5].as_py())
    np.testing.assert_allclose(vector, fused.features(*ready)[0].detach(), rtol=1e-4, atol=1e-5)
    manifest = require(tmp_path / "vectors", "embed")
    assert manifest.inputs["pairs"] == require(tmp_path / "pairs", "pair").fingerprint
    assert main(["report", "--inputs", str(tmp_path / "vectors"), str(tmp_path / "pairs"), "--out", str(page)]) == 0
    text = (page / "index.html").read_text()
    assert "each with the radar tile of its pair, embedded with both" in text
    orbits = kept.groupby(["orbit_a", "orbit_b"], dropna=False).ngroups
    assert orbits > 3 and f"{orbits} combinations" in text
    assert main([*embedded, "--out", str(tmp_path / "none"), "--stream", optical]) == 2
    assert main([*embedded[:2], str(out / "s2"), *embedded[3:], "--out", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert "expected no stream for pairs, which name theirs, got s2_" in said
    assert "expected an encoder of two sensors in" in said and not (tmp_path / "none").exists()
    assert save_fusion(out, fused.fusion) == save_fusion(tmp_path, fused.fusion)
    whole = (out / FUSION_FILE).read_bytes()
    assert (tmp_path / FUSION_FILE).read_bytes() == whole
    with torch.no_grad():
        fused.fusion.norm.weight += 1
    with pytest.raises(UserError, match="no other fusion at"):
        save_fusion(out, fused.fusion)
    (out / FUSION_FILE).write_bytes(whole[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match="as it was made, got another content"):
        load_fused_encoder(out)


def test_training_goes_on_from_an_encoder_of_two_sensors(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    radar, optical = streams(corpus)
    pair.main(corpus, tmp_path / "pairs", first=radar, second=optical, bounds=PairConfig(max_days=60))
    tag = Corpus.open(corpus).streams[optical]
    bands = tuple(band for band in reversed(tag.bands) if band != "B01")
    boa = {"sensor": tag.sensor, "quantity": tag.quantity, "range": tag.quantity.plausible, "gsd_m": (20.0, 20.0)}
    source = make_fused(tmp_path / "croma", {"s1": exported.radar(24), "s2": exported.optical(24, bands, **boa)})
    first, begun = load_fused_encoder(source), {"items": "pairs", "pairs": tmp_path / "pairs", "init": source}
    out = tmp_path / "more"
    pretrain.main(corpus, out, objective=Croma(), lr=1e-12, **begun, **QUICK)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{source}: s2: bands B01 of the tiles are not used, it has no input for them" in said
    assert "s2: its pixels were of 20 to 20 m, these are of 10 m" in said and "s1: its pixels" not in said
    after = load_fused_encoder(out)
    for one, other in ((first.radar, after.radar), (first.optical, after.optical), (first.fusion, after.fusion)):
        for name, value in one.state_dict().items():
            if not name.endswith("pos_embed"):  # zeros, of another number of patches
                torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=1e-9)
    assert after.optical.preprocessing.bands == bands and after.optical.preprocessing.size_px == 32
    assert after.radar.preprocessing.mean == first.radar.preprocessing.mean
    manifest = require(out, "pretrain")
    assert manifest.inputs["encoder croma"] == manifest.config["init"]["fingerprint"] == first.fingerprint
    assert manifest.fingerprint == after.fingerprint  # by which an evaluation names it
    assert {"radar_card", "colour_card"} < {licence["card"] for licence in after.provenance["licences"]}
    for words, kind, method in (
        (
            r"joins the sensors as .*croma does, by a FusionEncoder of dim 64, depth 2, .*depth 1",
            "pairs",
            Croma(fusion_depth=1),
        ),
        (
            r"pairs of a radar and an optical stream for .*croma, an encoder of two sensors, got items of tile",
            "tiles",
            Mae(),
        ),
    ):
        other = begun if kind == "pairs" else {"init": source, "streams": [optical]}
        with pytest.raises(UserError, match=words):
            pretrain.main(corpus, tmp_path / "none", objective=method, **other, **QUICK)
    pretrain.main(corpus, tmp_path / "apart", objective=SimClr(), **begun, **QUICK)
    assert "what joins its sensors is left out, SimClrObjective joins none" in " ".join(capsys.readouterr().out.split())
    one = {"init": source / "s1", "streams": [radar]}
    pretrain.main(corpus, tmp_path / "radar", objective=SimClr(), lr=1e-12, **one, **QUICK)
    kernel = "model.patch_embed.proj.weight"
    apart = load_encoder(tmp_path / "radar").state_dict()[kernel]
    torch.testing.assert_close(apart, first.radar.state_dict()[kernel], rtol=0, atol=1e-9)


def test_one_transformer_of_two_sensors_encodes_each_alone_and_both(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    radar, optical = streams(corpus)
    pairs = tmp_path / "pairs"
    pair.main(corpus, pairs, first=optical, second=radar, bounds=PairConfig(max_days=60))
    out, model = tmp_path / "joint", ChannelVit("test_vit", depth=1)
    pretrain.main(corpus, out, items="pairs", pairs=pairs, objective=MultiMae(), model=model, **QUICK)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert {"radar", "optical", "rankme"} <= set().union(*log)
    with safetensors.safe_open(out / FUSION_FILE, framework="pt") as file:
        assert file.metadata() == {"format": "2", "kind": "sequence", "sizes": "{}"}
    fused, alone = load_fused_encoder(out), {stream: load_encoder(out / stream) for stream in ("s1", "s2")}
    count = sum(part.numel() for part in fused.parameters())
    assert (
        require(out, "pretrain").summary["parameters"]
        == count
        < sum(part.numel() for encoder in alone.values() for part in encoder.parameters())
    )
    gen = torch.Generator().manual_seed(0)
    x = [torch.randn(3, bands, 32, 32, generator=gen) for bands in (2, 12)]
    none = torch.zeros(1, dtype=torch.bool)
    with torch.no_grad():
        both = fused.features(*x)
        for stream, missing in (("s2", "radar_valid"), ("s1", "optical_valid")):
            dark = {missing: none.expand(x[missing == "optical_valid"].shape)}
            torch.testing.assert_close(fused.features(*x, **dark), alone[stream].features(x[stream == "s2"]))
            assert not torch.allclose(both, fused.features(*x, **dark), atol=1e-4)
    task, sources = plant_task(fused)
    settings = Settings.of(["knn5"], shots=[0], draws=1, seed=0)
    (row,), _ = judge(task, load_candidates([str(out)]), settings, tmp_path / "results", computing=Computing())
    assert row["encoder"] == "joint" and row["value"] > 0.8
    single = dataclasses.replace(task, name="radar", sources=(sources[1],), partners=())
    (row,), _ = judge(
        single, load_candidates([str(out / "s1")]), settings, tmp_path / "results_radar", computing=Computing()
    )
    assert row["value"] > 0.4  # one of two bits
    embedded = ["embed", "--encoder", str(out), "--source", str(corpus), "--pairs", str(pairs)]
    assert main([*embedded, "--out", str(tmp_path / "vectors")]) == 0
    table = pq.read_table(tmp_path / "vectors" / "embeddings.parquet")
    kept = pq.read_table(pairs / "pairs.parquet").to_pandas()
    at = sorted(set(kept["row_a"]))[5]
    partners = kept[kept["row_a"] == at]
    ready = []
    for encoder, name, row_of in (
        (fused.radar, radar, partners.loc[partners["days"].abs().idxmin(), "row_b"]),
        (fused.optical, optical, at),
    ):
        reader = Corpus.open(corpus).stream(name)
        tag, tile = reader.stream, torch.from_numpy(reader.read(np.array([row_of])))
        ready.append(encoder.preprocessing(tile, bands=tag.bands, quantity=tag.quantity, sensor=tag.sensor))
    (first, radar_valid), (second, optical_valid) = ready
    vector = fused.features(first, second, radar_valid=radar_valid, optical_valid=optical_valid)[0]
    np.testing.assert_allclose(np.array(table["embedding"][5].as_py()), vector.detach(), rtol=1e-4, atol=1e-5)
    begun = {"items": "pairs", "pairs": pairs, "init": out, "objective": MultiMae()}
    for name, adapt, lr in (("more", Whole(), 1e-12), ("adapted", Lora(), 1e-2)):
        pretrain.main(corpus, tmp_path / name, adapt=adapt, lr=lr, **begun, **QUICK | {"steps": 2})
        after = load_fused_encoder(tmp_path / name)
        found = after.state_dict()
        moved = {key for key, value in fused.state_dict().items() if not torch.allclose(found[key], value, atol=1e-9)}
        adapted = {
            key
            for key in found
            if ".blocks." in key and key.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"))
        }
        assert moved == (adapted if name == "adapted" else set())
        assert after.radar.model.blocks is after.optical.model.blocks
        manifest = require(tmp_path / name, "pretrain")
        assert manifest.inputs["encoder joint"] == fused.fingerprint and manifest.fingerprint == after.fingerprint
    tiles = ["pretrain", "--corpus", str(corpus), "--streams", optical, "--objective", "MultiMae"]
    assert main([*tiles, "--out", str(tmp_path / "none")]) == 2
    assert "got s1; train on pairs with --items pairs" in capsys.readouterr().err and not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["places", "drawn_places"])
def test_two_seasons_of_a_place_train_one_encoder(corpus: Path, tmp_path: Path, kind: Kind) -> None:
    _, optical = streams(corpus)
    data = open_training_data(DataSelection((corpus,), streams=(optical,), kind=kind, dates=2))
    index = Corpus.open(corpus).index(optical, columns=["location_id", "datetime", "split"])
    members = data.items.members("tile", np.arange(len(data.items)))
    places, moments = (np.array(index[name].to_pylist())[members] for name in ("location_id", "datetime"))
    assert (places[:, 0] == places[:, 1]).all() and (moments[:, 0] < moments[:, 1]).all()
    sampler = ItemSampler(data.pool, batch_size=4, seed=1)
    batch = next(iter(ItemLoader(data.items, sampler, steps=1)))
    seasons = ViewMaker({"season": ViewSpec(count=2, stream="season")}, data.items.contracts, dates=2)(batch)
    whole = Corpus.open(corpus).index(optical).to_pylist()
    shown = data.items.members("tile", batch.rows.numpy(), seed=batch.step.seed)
    assert np.array_equal(shown, members[batch.rows.numpy()]) == (kind == "places")
    physical = torch.from_numpy(Corpus.open(corpus).stream(optical).read(shown[:, 0]))
    assert torch.equal(batch.streams["tile"][1][:, 0], physical.isfinite())
    for date, view in enumerate(seasons.views["season"]):
        tiles = [whole[row] for row in shown[:, date]]
        days = [(datetime.fromisoformat(tile["datetime"]) - EPOCH).total_seconds() / 86400 for tile in tiles]
        assert view.metadata is not None and view.lonlat is not None
        np.testing.assert_allclose(view.metadata[:, 0].numpy(), days, atol=1e-3)
        middles = [shapely.from_wkb(tile["geometry"]).centroid.coords[0] for tile in tiles]
        np.testing.assert_allclose(view.lonlat.numpy(), middles, atol=1e-4)
    split = np.array(index["split"].to_pylist())[members]
    assert (split[data.pool] == "train").all() and len(data.pool)
    out = tmp_path / "encoder"
    pretrain.main(corpus, out, streams=[optical], items=kind, objective=SimClr(), model=Vit(depth=1), **QUICK)
    assert load_encoder(out).preprocessing == data.items.contracts["tile"]
    assert require(out, "pretrain").summary["presentations"] == 16
