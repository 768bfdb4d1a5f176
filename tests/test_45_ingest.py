"""The ingest on products with every pixel known: what is kept, where it lies, how it is described; and what happens twice or badly."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import socket
import threading
import time
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eo_ssl.corpus import Corpus, IngestConfig, cutting, ingest, plan_ingest, snapshots
from eo_ssl.corpus import index as index_module
from eo_ssl.errors import UserError
from eo_ssl.manifest import require
from eo_ssl.sensors import Quantity
from eo_ssl.tiling import plan_native, tile_id
from fake_scenes import FakeChips, FakeProduct, card, reflectance, scenes

CONFIG = IngestConfig(size_px=16, edge="pad", min_valid=0.0)
STREAM = "s2_boa_b02b03b04_10m_16px"


def run(products, out: Path, config: IngestConfig = CONFIG, **more):
    return ingest(products, out=out, config=config, client=more.pop("client", "synchronous"), **more)


def test_every_pixel_lands_where_the_index_says(tmp_path: Path, rng: np.random.Generator) -> None:
    products = scenes(rng)
    report = run(products, tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    assert report.streams == {STREAM: 48} and report.added == 3 and corpus.count(STREAM) == 48
    table = corpus.index(STREAM).to_pylist()
    tiles = corpus.stream(STREAM).read(np.arange(48))
    by_id = {product.product_id: product for product in products}
    for row, tile in zip(table, tiles, strict=True):
        product = by_id[row["product_id"]]
        box = np.s_[row["row_off"] : row["row_off"] + row["height"], row["col_off"] : row["col_off"] + row["width"]]
        source = np.full((3, 16, 16), np.nan, dtype=np.float32)
        source[:, : row["height"], : row["width"]] = product.image[(slice(None), *box)]
        inside = np.minimum(source, 3.2767)
        np.testing.assert_allclose(tile, inside, atol=0.51e-4)
        valid = np.isfinite(source).all(axis=0)
        assert row["valid_fraction"] == pytest.approx(valid.mean())
        cloud = product.layers["cloud"][box]
        seen = valid[: row["height"], : row["width"]]
        assert row["cloud_fraction"] == pytest.approx(cloud[seen].mean())
        assert row["shadow_fraction"] is None
        saturated = ((source > 3.2767).any(axis=0) & valid).sum() / valid.sum()
        assert row["saturated_fraction"] == pytest.approx(saturated)
        place = (row["row_off"], row["col_off"], row["height"], row["width"])
        assert row["tile_id"] == tile_id(row["product_id"], STREAM, place)
        assert (row["epsg"], row["month"], row["orbit"], row["datetime"][:4]) == (32632, 7, "22", "2020")
    planned = {
        (p.product_id, *window)
        for p in products
        for window in map(tuple, plan_native(64, 55, size_px=16, edge="pad").tolist())
    }
    assert {(r["product_id"], r["row_off"], r["col_off"], r["height"], r["width"]) for r in table} == planned


def test_many_parts_and_shards_give_the_same_corpus_without_gaps(
    tmp_path: Path, rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = FakeProduct("fake/big", card(), reflectance(rng, height=200, width=220), blocks=(32, 64))
    whole = run([product], tmp_path / "one")
    monkeypatch.setattr("eo_ssl.corpus.shards.MAX_TILES", 5)
    monkeypatch.setattr("eo_ssl.corpus.cutting.REGION_BYTES", 4 * 3 * 32 * 100)
    parts = run([product], tmp_path / "many")
    survey = json.loads((next((tmp_path / "many" / "fragments").glob("*")) / "fragment.json").read_text())
    assert survey["rows"] == 13 * 14 == whole.tiles
    shards = [name for name in survey["files"] if "/c." in name]
    assert len(shards) == -(-182 // 5)  # dense: only the last shard is not full
    assert whole.fingerprint == parts.fingerprint
    one, many = Corpus.open(tmp_path / "one"), Corpus.open(tmp_path / "many")
    order = {row["tile_id"]: k for k, row in enumerate(one.index(STREAM, columns=["tile_id"]).to_pylist())}
    rows = [order[row["tile_id"]] for row in many.index(STREAM, columns=["tile_id"]).to_pylist()]
    assert sorted(rows) == list(range(182))
    assert many.stream(STREAM).read_stored(np.arange(182)).tobytes() == one.stream(STREAM).read_stored(rows).tobytes()
    np.testing.assert_allclose(one.statistics(STREAM).mean, many.statistics(STREAM).mean, rtol=1e-12)
    assert one.verify() == many.verify() == []


def test_statistics_are_those_of_the_training_tiles(tmp_path: Path, rng: np.random.Generator) -> None:
    config = dataclasses.replace(CONFIG, shares=(0.5, 0.2, 0.3))
    run(scenes(rng), tmp_path / "c", config)
    corpus = Corpus.open(tmp_path / "c")
    split = np.array(corpus.index(STREAM, columns=["split"])["split"].to_pylist())
    assert {*split} == {"train", "val", "test"}
    values = corpus.stream(STREAM).read(np.flatnonzero(split == "train")).astype(np.float64)
    flat = values.transpose(1, 0, 2, 3).reshape(3, -1)
    stats = corpus.statistics(STREAM)
    assert (stats.count == np.isfinite(flat).sum(axis=1)).all()
    np.testing.assert_allclose(stats.mean, np.nanmean(flat, axis=1), rtol=1e-6)
    np.testing.assert_allclose(stats.std, np.nanstd(flat, axis=1), rtol=1e-6)


def test_a_place_is_in_one_split_whatever_the_date(tmp_path: Path, rng: np.random.Generator) -> None:
    first, second = scenes(rng, 1)[0], scenes(rng, 1)[0]
    second = dataclasses.replace(second, product_id="fake/later")
    config = dataclasses.replace(CONFIG, shares=(0.4, 0.3, 0.3))
    run([first, second], tmp_path / "c", config)
    rows = Corpus.open(tmp_path / "c").index(STREAM, columns=["location_id", "split", "product_id"]).to_pylist()
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["location_id"], set()).add(row["split"])
    assert len(splits) == 16 and all(len(found) == 1 for found in splits.values())


def test_filters_and_labels(tmp_path: Path) -> None:
    image = np.full((3, 16, 48), 0.1, dtype=np.float32)
    cloud, label = np.zeros((16, 48), dtype=bool), np.full((16, 48), 2, dtype=np.int16)
    image[0, :8, :16] = np.nan  # tile 0: half invalid
    cloud[:, 16:32] = True  # tile 1: cloudy
    label[:10, 32:] = 1  # tile 2: 62.5 % forest, the rest unknown
    label[10:, 32:] = -1
    product = FakeProduct("fake/p", card(), image, {"cloud": cloud, "label": label})
    run([product], tmp_path / "c", IngestConfig(size_px=16, min_valid=0.6, max_cloud=0.5))
    corpus = Corpus.open(tmp_path / "c")
    (row,) = corpus.index(STREAM).to_pylist()
    assert (row["col_off"], row["label"], row["label_name"], row["label_fraction"]) == (32, 1, "forest", 0.625)
    assert corpus.describe()["counts"] == {"planned": 3, "kept": 1, "invalid": 1, "cloudy": 1}
    strict = card(labels=dataclasses.replace(product.card.labels, purity=0.7))
    run(
        [dataclasses.replace(product, card=strict)],
        tmp_path / "d",
        IngestConfig(size_px=16, min_valid=0.6, max_cloud=0.5),
    )
    (row,) = Corpus.open(tmp_path / "d").index(STREAM).to_pylist()
    assert (row["label"], row["label_name"], row["label_fraction"]) == (-1, "", 0.625)


def test_a_clouded_scene_is_an_empty_fragment_not_a_failure(tmp_path: Path, rng: np.random.Generator) -> None:
    good, clouded = scenes(rng, 2)
    clouded.layers["cloud"][:] = True
    report = run([good, clouded], tmp_path / "c", IngestConfig(size_px=16, min_valid=0.5, max_cloud=0.9))
    assert report.quarantined == () and report.added == 2
    corpus = Corpus.open(tmp_path / "c")
    assert len(corpus.stream(STREAM)) == corpus.index(STREAM).num_rows == report.tiles > 0
    assert set(corpus.index(STREAM)["product_id"].to_pylist()) == {"fake/0"}


def test_decibel_products_become_linear_power(tmp_path: Path, rng: np.random.Generator) -> None:
    decibel = rng.normal(-12, 3, (2, 32, 32)).astype(np.float32)
    radar = card(sensor="sentinel1_rtc", bands=("VV", "VH"), quantity="gamma0_db", labels=None)
    run([FakeProduct("fake/db", radar, decibel)], tmp_path / "c", dataclasses.replace(CONFIG, shares=(1.0, 0.0, 0.0)))
    corpus = Corpus.open(tmp_path / "c")
    (name,) = corpus.streams
    assert name == "s1rtc_gamma0_vvvh_10m_16px"
    tiles = corpus.stream(name).read([0, 1, 2, 3])
    whole = np.block([[tiles[0], tiles[1]], [tiles[2], tiles[3]]])
    assert np.abs(10 * np.log10(whole) - decibel).max() < 10 * np.log10(1 + 2**-11) * 1.01
    np.testing.assert_allclose(corpus.statistics(name, "gamma0_db").mean, decibel.mean(axis=(1, 2)), atol=1e-3)
    assert corpus.statistics(name).quantity is Quantity.GAMMA0
    with pytest.raises(UserError, match="gamma0, gamma0_db, got sigma0"):
        corpus.statistics(name, "sigma0")


def test_chosen_bands_come_in_the_order_asked_for(tmp_path: Path, rng: np.random.Generator) -> None:
    product = scenes(rng, 1)[0]
    run([product], tmp_path / "c", dataclasses.replace(CONFIG, bands=("red", "B02")))
    corpus = Corpus.open(tmp_path / "c")
    (stream,) = corpus.streams.values()
    assert stream.bands == ("B04", "B02")
    tile = corpus.stream(stream.name).read([5])[0]
    row = corpus.index(stream.name).to_pylist()[5]
    box = np.s_[row["row_off"] : row["row_off"] + 16, row["col_off"] : row["col_off"] + 16]
    np.testing.assert_allclose(tile, product.image[[2, 0]][(slice(None), *box)], atol=0.51e-4)


def chips(rng: np.random.Generator, name: str = "chips/00000", count: int = 9) -> FakeChips:
    images = rng.integers(0, 255, (count, 1, 16, 16)).astype(np.uint8)
    images[0, 0, 4, 4] = 255  # the fake archive's mark for a padded pixel
    kind = card("chips", sensor="sar_chip", bands=("SAR",), quantity="amplitude", gsd_m=0.3, scale=1 / 255, labels=None)
    return FakeChips(
        name,
        kind,
        images,
        tuple(f"{name}/{k}.jpg" for k in range(count)),
        tuple(range(-1, count - 1)),
        ("test", "train") * 4 + ("",),
    )


def test_chips_keep_bytes_labels_sizes_and_their_benchmark_split(tmp_path: Path, rng: np.random.Generator) -> None:
    batch = chips(rng)
    run([batch], tmp_path / "c", dataclasses.replace(CONFIG, shares=(1.0, 0.0, 0.0)))
    corpus = Corpus.open(tmp_path / "c")
    (name,) = corpus.streams
    assert name == "sar_amplitude_1b_0.3m_16px"
    stored = corpus.stream(name).read_stored(np.arange(9))
    assert (stored[:, 0] == np.where(batch.images[:, 0] == 255, 0, batch.images[:, 0])).all()
    assert (stored[:, 1] == (batch.images[:, 0] != 255)).all()
    tiles = corpus.stream(name).read(np.arange(9))
    assert np.isnan(tiles).sum() == 1 and np.isnan(tiles[0, 0, 4, 4])
    rows = corpus.index(name).to_pylist()
    assert [row["source"] for row in rows] == list(batch.names)
    assert [row["label"] for row in rows] == list(batch.labels)
    assert [row["label_name"] for row in rows][:3] == ["", "class0", "class1"]
    assert [row["benchmark_split"] for row in rows] == list(batch.splits)
    assert [row["split"] for row in rows] == ["test" if split == "test" else "train" for split in batch.splits]
    assert {(row["source_width_px"], row["source_height_px"], row["row_off"], row["col_off"]) for row in rows} == {
        (25, 19, 1, 4)
    }
    assert len({row["location_id"] for row in rows}) == 9 and rows[0]["geometry"] is None
    train = tiles[[k for k, split in enumerate(batch.splits) if split != "test"]].astype(np.float64)
    np.testing.assert_allclose(corpus.statistics(name).mean, [np.nanmean(train)], rtol=1e-6)


def test_geopandas_opens_the_index_and_finds_the_places(tmp_path: Path, rng: np.random.Generator) -> None:
    run(scenes(rng, 1), tmp_path / "c")
    frame = geopandas.read_parquet(next((tmp_path / "c" / "fragments").glob("*/index.parquet")))
    assert frame.crs.to_string() == "OGC:CRS84"
    metres = frame.to_crs("EPSG:32632").geometry
    whole = frame["width"].eq(16) & frame["height"].eq(16)
    np.testing.assert_allclose(metres.area[whole], 160.0**2, rtol=1e-6)
    np.testing.assert_allclose(metres.centroid.x, 500000 + (frame["col_off"] + frame["width"] / 2) * 10, atol=1e-3)
    np.testing.assert_allclose(metres.centroid.y, 5000000 - (frame["row_off"] + frame["height"] / 2) * 10, atol=1e-3)
    np.testing.assert_allclose(frame.total_bounds, [*frame[["xmin", "ymin"]].min(), *frame[["xmax", "ymax"]].max()])
    cells = [tuple(map(int, name.split(":"))) for name in frame["location_id"]]
    assert all(
        cell == (32632, y // 160, x // 160)
        for cell, x, y in zip(cells, metres.centroid.x, metres.centroid.y, strict=True)
    )


def test_products_without_place_are_one_location_each(tmp_path: Path, rng: np.random.Generator) -> None:
    nowhere = [dataclasses.replace(product, where={"crs": "", "transform": ()}) for product in scenes(rng, 2)]
    run(nowhere, tmp_path / "c")
    rows = Corpus.open(tmp_path / "c").index(STREAM).to_pylist()
    assert {(row["product_id"], row["location_id"], row["epsg"], row["geometry"], row["xmin"]) for row in rows} == {
        ("fake/0", "fake/0", 0, None, None),
        ("fake/1", "fake/1", 0, None, None),
    }


def test_across_the_antimeridian_a_footprint_has_two_halves(tmp_path: Path) -> None:
    where = {"crs": "EPSG:4326", "transform": (0.01, 0.0, 179.92, 0.0, -0.01, 10.0)}
    run([FakeProduct("fake/a", card(), np.full((3, 16, 16), 0.1, dtype=np.float32), {}, where)], tmp_path / "c")
    frame = geopandas.read_parquet(next((tmp_path / "c" / "fragments").glob("*/index.parquet")))
    assert frame.geometry[0].geom_type == "MultiPolygon"
    assert frame["xmin"][0] == pytest.approx(179.92) and frame["xmax"][0] == pytest.approx(-179.92)
    assert frame.geometry[0].area == pytest.approx(0.16**2)
    assert all(part.bounds[0] >= -180 and part.bounds[2] <= 180 for part in frame.geometry[0].geoms)


def test_grid_cells_are_shared_by_shifted_products(tmp_path: Path, rng: np.random.Generator) -> None:
    field = rng.uniform(0, 1, (3, 96, 96)).astype(np.float32)
    at = (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0)
    shifted = (10.0, 0.0, 500000.0 + 50, 0.0, -10.0, 5000000.0 - 70)
    products = [
        FakeProduct("fake/a", card(), field[:, :80, :80].copy(), {}, {"crs": "EPSG:32632", "transform": at}),
        FakeProduct("fake/b", card(), field[:, 7:87, 5:85].copy(), {}, {"crs": "EPSG:32632", "transform": shifted}),
    ]
    run(products, tmp_path / "c", IngestConfig(size_px=16, tiling="grid", min_valid=1.0))
    corpus = Corpus.open(tmp_path / "c")
    rows = corpus.index(STREAM).to_pylist()
    tiles = corpus.stream(STREAM).read(np.arange(len(rows)))
    by_place: dict[str, dict[str, np.ndarray]] = {}
    for row, tile in zip(rows, tiles, strict=True):
        by_place.setdefault(row["location_id"], {})[row["product_id"]] = tile
        assert row["col_off"] % 16 == row["row_off"] % 16 == 0
        zone, north, east = map(int, row["location_id"].split(":"))
        assert (zone, east * 16, -(north + 1) * 16) == (32632, row["col_off"], row["row_off"])
        # whole-pixel shifts: the resampled tile is the field itself
        top, left = (5000000 - (north + 1) * 160) // 10, (east * 160 - 500000) // 10
        np.testing.assert_allclose(tile, field[:, top : top + 16, left : left + 16], atol=1.1e-4)
    assert len([place for place, found in by_place.items() if len(found) == 2]) >= 9


@pytest.mark.parametrize("method", ["nearest", "bilinear", "average"])
def test_resampling_does_not_depend_on_how_the_product_is_split(
    tmp_path: Path, rng, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    ramp = np.add.outer(np.arange(200.0), np.arange(180.0)).astype(np.float32)[None].repeat(3, axis=0) / 1000
    where = {
        "crs": "EPSG:4326",
        "transform": (0.0001, 0.0, 9.01, 0.0, -0.0001, 45.2),
    }  # about 11 m x 8 m, in another system
    label = rng.integers(0, 3, (200, 180)).astype(np.int16)
    product = FakeProduct(
        "fake/lonlat", card(), ramp + rng.uniform(0, 0.01, ramp.shape).astype(np.float32), {"label": label}, where
    )
    config = IngestConfig(size_px=16, tiling="grid", gsd_m=10.0, edge="pad", min_valid=0.3, resampling=method)
    one = run([product], tmp_path / "one", config)
    monkeypatch.setattr("eo_ssl.corpus.cutting.REGION_BYTES", 4 * 3 * 16 * 48)
    many = run([product], tmp_path / "many", config)
    assert one.tiles > 80 and one.fingerprint == many.fingerprint
    frame = geopandas.read_parquet(next((tmp_path / "one" / "fragments").glob("*/index.parquet")))
    assert set(frame["epsg"]) == {32632}
    tiles = Corpus.open(tmp_path / "one").stream(STREAM).read(np.arange(one.tiles))
    for tile, (_, row) in zip(tiles, frame.iterrows(), strict=True):
        centre = row.geometry.centroid
        expected = ((45.2 - centre.y) / 0.0001 + (centre.x - 9.01) / 0.0001) / 1000 + 0.005
        if row["valid_fraction"] == 1:
            assert abs(float(np.nanmean(tile)) - expected) < 0.004


def test_a_second_run_adds_nothing_and_says_so(tmp_path: Path, rng: np.random.Generator) -> None:
    products = scenes(rng)
    first = run(products, tmp_path / "c")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")}
    again = run(products, tmp_path / "c")
    assert (again.state, again.snapshot, again.fingerprint, again.added) == ("done", 1, first.fingerprint, 0)
    assert "nothing to do" in again.sentence()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")} == before


def test_the_manifest_names_products_config_and_fingerprint(tmp_path: Path, rng: np.random.Generator) -> None:
    report = run(scenes(rng), tmp_path / "c")
    manifest = require(tmp_path / "c", "ingest")
    assert manifest.fingerprint == report.fingerprint == Corpus.open(tmp_path / "c").fingerprint
    assert manifest.config["cards"]["fake"]["ingest"] == CONFIG.to_json()
    assert list(manifest.inputs) == ["fake"] and manifest.summary["tiles"] == 48
    assert not (tmp_path / "c" / "unfinished.json").exists()


def test_appending_makes_a_snapshot_and_leaves_the_old_one(tmp_path: Path, rng: np.random.Generator) -> None:
    products = scenes(rng)
    first = run(products[:2], tmp_path / "c")
    old = Corpus.open(tmp_path / "c")
    second = run(products, tmp_path / "c")
    assert (second.snapshot, second.added, second.kept, second.tiles) == (2, 1, 2, 48)
    assert old.count(STREAM) == 32 and len(old.stream(STREAM).read(np.arange(32))) == 32
    assert Corpus.open(tmp_path / "c", snapshot=1).fingerprint == first.fingerprint != second.fingerprint
    other = run([chips(rng)], tmp_path / "c")
    assert other.tiles == 57 and set(Corpus.open(tmp_path / "c").streams) == {STREAM, "sar_amplitude_1b_0.3m_16px"}
    assert run(products, tmp_path / "c").state == "done"
    fresh = run([*products, chips(np.random.default_rng(1))], tmp_path / "d")
    assert fresh.tiles == 57
    assert (
        run(list(reversed(products)), tmp_path / "e").fingerprint == second.fingerprint
    )  # whatever the order and the steps


def test_a_changed_product_replaces_its_tiles(tmp_path: Path, rng: np.random.Generator) -> None:
    products = scenes(rng)
    run(products, tmp_path / "c")
    changed = dataclasses.replace(products[1], image=products[1].image + np.float32(0.1))
    report = run([products[0], changed, products[2]], tmp_path / "c")
    assert (report.tiles, report.added, report.snapshot) == (48, 1, 2)
    assert report.fingerprint == run([products[0], changed, products[2]], tmp_path / "d").fingerprint


def test_another_configuration_is_refused_and_overwrite_replaces(tmp_path: Path, rng: np.random.Generator) -> None:
    products = scenes(rng)
    first = run(products, tmp_path / "c")
    other = dataclasses.replace(CONFIG, min_valid=0.99)
    with pytest.raises(UserError, match=r"card fake .* difference in min_valid; give another output folder"):
        run(products, tmp_path / "c", other)
    report = run(products, tmp_path / "c", other, overwrite=True)
    assert report.snapshot == 2 and report.fingerprint == run(products, tmp_path / "d", other).fingerprint
    assert Corpus.open(tmp_path / "c", snapshot=1).fingerprint == first.fingerprint


def test_an_interrupted_run_is_not_resumed_with_another_configuration(
    tmp_path: Path, rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eo_ssl.corpus.snapshots.publish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(scenes(rng), tmp_path / "c")
    monkeypatch.undo()
    with pytest.raises(UserError, match="difference in edge"):
        run(scenes(rng), tmp_path / "c", dataclasses.replace(CONFIG, edge="drop"))
    with pytest.raises(UserError, match="expected a corpus with a snapshot"):
        Corpus.open(tmp_path / "c")
    with pytest.raises(UserError, match="unfinished"):
        require(tmp_path / "c", "ingest")


def test_bad_products_are_put_aside_and_the_rest_goes_on(tmp_path: Path, rng: np.random.Generator) -> None:
    good, missing, rotten, empty, small = scenes(rng, 5)
    missing, rotten = dataclasses.replace(missing, error="user"), dataclasses.replace(rotten, error="damage")
    empty.image[:] = np.nan
    small = dataclasses.replace(small, image=small.image[:, :9, :9], layers={})
    config = IngestConfig(size_px=16, min_valid=0.5)
    report = run([good, missing, rotten, empty, small], tmp_path / "c", config)
    assert (report.added, report.kept, len(report.quarantined)) == (1, 0, 4)
    aside = {value["product_id"]: value["reason"] for value in Corpus.open(tmp_path / "c").quarantine()}
    assert aside == dict(report.quarantined)
    assert "expected the band B8A" in aside["fake/1"]
    assert "RuntimeError: strip 7 is rotten" in aside["fake/2"]
    assert "at least 50% valid pixels in fake/3, got none out of 12" in aside["fake/3"]
    assert "got 9 x 9 px" in aside["fake/4"] and "use edge pad" in aside["fake/4"]
    assert run([good], tmp_path / "d", config).fingerprint == report.fingerprint
    repaired = run([good, dataclasses.replace(missing, error=""), rotten, empty, small], tmp_path / "c", config)
    assert repaired.added == 1 and len(repaired.quarantined) == 3
    assert "fake/1" not in {value["product_id"] for value in Corpus.open(tmp_path / "c").quarantine()}


def test_nothing_to_do_still_names_what_was_put_aside(tmp_path: Path, rng: np.random.Generator) -> None:
    """A product that fails while it is cut has a good survey, so the second run used to say that the corpus holds it."""
    good, empty = scenes(rng, 2)
    empty.image[:] = np.nan
    first = run([good, empty], tmp_path / "c")
    again = run([good, empty], tmp_path / "c")
    assert again.state == "done" and again.quarantined == first.quarantined != ()
    assert "snapshot 1 holds 1 products with this configuration, 1 quarantined" in again.sentence()


def test_what_failed_unexpectedly_is_kept_with_its_stack_and_tried_again(tmp_path: Path, rng, monkeypatch) -> None:
    """Out of memory, a network disk: such a failure says nothing of the product, so it must not be final."""
    products, plain = scenes(rng, 2), cutting.NativeRaster.read

    def read(self, *window):
        if self.grid.name == "fake/1":
            raise MemoryError("no room")
        return plain(self, *window)

    monkeypatch.setattr(cutting.NativeRaster, "read", read)
    assert len(run(products, tmp_path / "c").quarantined) == 1
    (aside,) = Corpus.open(tmp_path / "c").quarantine()
    assert "expected memory for this product, got MemoryError: no room; give workers more" in aside["reason"]
    assert "in read" in aside["trace"]
    assert run(products, tmp_path / "c").state == "ingested"  # tried, failed again
    monkeypatch.undo()
    assert run(products, tmp_path / "c").added == 1
    assert Corpus.open(tmp_path / "c").quarantine() == [] and run(products, tmp_path / "c").state == "done"


def test_two_cards_of_one_name_are_not_mixed(tmp_path: Path, rng: np.random.Generator) -> None:
    """The second one's fingerprint used to stand for both, so the fragments of the first claimed a card that did not make them."""
    one, two = scenes(rng, 2)
    with pytest.raises(UserError, match="expected one card called fake, got two that differ"):
        run([one, dataclasses.replace(two, card=card(title="another"))], tmp_path / "c")


def test_a_kill_before_the_new_manifest_keeps_the_old_one(tmp_path: Path, rng, monkeypatch) -> None:
    """The old manifest used to be removed first; the resumed run then knew nothing of the cards ingested before."""
    first, second = scenes(rng, 2)
    second = dataclasses.replace(second, card=card("other"))
    run([first], tmp_path / "c")
    monkeypatch.setattr(
        "eo_ssl.corpus.ingest_state.write_manifest", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        run([second], tmp_path / "c")
    monkeypatch.undo()
    run([second], tmp_path / "c")
    assert set(require(tmp_path / "c", "ingest").config["cards"]) == {"fake", "other"}


def test_when_nothing_can_be_read_there_is_no_snapshot(tmp_path: Path, rng: np.random.Generator) -> None:
    bad = [dataclasses.replace(product, error="user") for product in scenes(rng, 2)]
    with pytest.raises(UserError, match=r"expected the band B8A in fake/0.*1 other products failed"):
        run(bad, tmp_path / "c")
    assert not (tmp_path / "c" / "snapshots").exists() and not (tmp_path / "c" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_cloud": 0.5}, "expected a cloud mask in fake/0 for max_cloud 0.5"),
        ({"bands": ("B02", "B8A")}, "expected band B8A in fake/0"),
        ({"bands": ("B02", "B77")}, "got 'B77'"),
    ],
)
def test_what_a_product_cannot_give_is_refused_in_words(tmp_path: Path, rng, change: dict, words: str) -> None:
    product = dataclasses.replace(scenes(rng, 1)[0], layers={})
    with pytest.raises(UserError, match=words):
        run([product], tmp_path / "c", dataclasses.replace(CONFIG, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size_px": 2}, "size_px of at least 4"),
        ({"tiling": "hex"}, "native, grid, got 'hex'"),
        ({"min_valid": 90}, "give a share, not percent"),
        ({"shares": (0.5, 0.1, 0.1)}, "add up to 1"),
        ({"tiling": "grid", "edge": "shift"}, "cells of a fixed grid cannot shift"),
        ({"gsd_m": 20.0}, "only with tiling grid"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(change: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        IngestConfig(**change)


def test_other_mistakes_are_refused_in_words(tmp_path: Path, rng: np.random.Generator) -> None:
    products = scenes(rng, 1)
    with pytest.raises(UserError, match="each product once, got fake/0"):
        run([*products, *products], tmp_path / "c")
    with pytest.raises(UserError, match="at least one product"):
        run([], tmp_path / "c")
    with pytest.raises(UserError, match="threads, processes, synchronous or an address"):
        run(products, tmp_path / "c", client="thread")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="folder with other files"):
        run(products, tmp_path / "full")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"expected a folder .* got the file"):
        run(products, tmp_path / "file")
    run(products, tmp_path / "c")
    with pytest.raises(UserError, match="did you mean"):
        Corpus.open(tmp_path / "c").stream(STREAM[:-2])
    with pytest.raises(UserError, match="'split'"):
        Corpus.open(tmp_path / "c").index(STREAM, columns=["splitt"])
    with pytest.raises(UserError, match=r"snapshot of .* out of 1, got 7"):
        Corpus.open(tmp_path / "c", snapshot=7)
    with pytest.raises(UserError, match=r"in a folder or at s3://bucket/prefix, got 'gs://bucket/corpus'"):
        Corpus.open("gs://bucket/corpus")


def test_racing_writers_both_end_up_in_the_corpus(tmp_path: Path, rng, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loser of the race for a snapshot number reads the winner's and tries again."""
    products = scenes(rng, 4)
    barrier = threading.Barrier(2)
    fingerprint, calls = snapshots.compute_fingerprint, iter(range(99))

    def together(*args, **kwargs):
        found = fingerprint(*args, **kwargs)
        if next(calls) < 2:
            barrier.wait(timeout=20)
        return found

    monkeypatch.setattr(snapshots, "compute_fingerprint", together)
    named = [
        [dataclasses.replace(p, card=card(name)) for p in part]
        for name, part in (("one", products[:2]), ("two", products[2:]))
    ]
    threads = [threading.Thread(target=run, args=(part, tmp_path / "c")) for part in named]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.snapshot == 2 and corpus.count(STREAM) == 64
    monkeypatch.undo()
    assert corpus.fingerprint == run([*named[0], *named[1]], tmp_path / "d").fingerprint


def test_a_corpus_pickles_as_its_path_and_snapshot(tmp_path: Path, rng: np.random.Generator) -> None:
    run(scenes(rng), tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    text = pickle.dumps(corpus)
    assert len(text) < 400
    again = pickle.loads(text)
    assert again.fingerprint == corpus.fingerprint and again.snapshot == 1
    assert again.stream(STREAM).read([3]).tobytes() == corpus.stream(STREAM).read([3]).tobytes()


def test_the_fingerprint_sees_tiles_not_files(tmp_path: Path, rng: np.random.Generator) -> None:
    products = scenes(rng)
    prints = {
        codec: run(products, tmp_path / codec, dataclasses.replace(CONFIG, codec=codec)).fingerprint
        for codec in ("none", "lz4", "zstd")
    }
    assert len(set(prints.values())) == 1
    path = next((tmp_path / "lz4" / "fragments").glob("*/index.parquet"))
    table = pq.read_table(path, partitioning=None)

    def fingerprint(file: Path, **options: int) -> str:
        rows = index_module.hash_rows(pq.read_table(file, partitioning=None))
        return index_module.hash_digests(lambda: [rows[:5], rows[5:]], rows=len(rows), **options)

    def changed(name: str, values: list) -> str:
        field = table.schema.field(name)
        column = pa.array(values, field.type)
        pq.write_table(table.set_column(table.schema.get_field_index(name), field, column), tmp_path / "x.parquet")
        return fingerprint(tmp_path / "x.parquet")

    base = fingerprint(path)
    ids, pixels, valid = (table[name].to_pylist() for name in ("tile_id", "pixels_sha256", "valid_fraction"))
    assert changed("tile_id", [b"\0" * 16, *ids[1:]]) != base
    assert changed("pixels_sha256", [b"\0" * 32, *pixels[1:]]) != base
    assert changed("valid_fraction", [0.125, *valid[1:]]) != base
    assert changed("cloud_fraction", [None, *table["cloud_fraction"].to_pylist()[1:]]) != base
    assert changed("attribution", ["somebody"] * len(ids)) == base
    pq.write_table(
        table.take(list(reversed(range(len(ids))))), tmp_path / "r.parquet", compression="gzip", row_group_size=3
    )
    assert fingerprint(tmp_path / "r.parquet") == base
    assert fingerprint(path, batch=3) == base  # in ranges of ids


def test_verify_names_a_changed_file(tmp_path: Path, rng: np.random.Generator) -> None:
    run(scenes(rng), tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.verify() == []
    path = next((tmp_path / "c" / "fragments").glob("*/*.zarr/c.0.0.0.0"))
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    (sentence,) = corpus.verify()
    assert "differs from its fragment.json" in sentence and str(path) in sentence


def test_leftovers_of_dead_runs_are_removed_and_of_living_ones_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    run(scenes(rng, 1), tmp_path / "c")
    home = tmp_path / "c" / "fragments"
    dead, alive = (
        home / f".staging-{socket.gethostname()}-999999999-0",
        home / f".staging-{socket.gethostname()}-{os.getppid()}-0",
    )
    foreign = home / ".staging-elsewhere-host-5-0"
    for folder in (dead, alive, foreign):
        (folder / "x").mkdir(parents=True)
    folder = tmp_path / "c" / "snapshots"
    (folder / ".notes.tmp").write_text("of somebody's editor, not of a commit")
    # Another thread of this process is writing the first of these; it used to lose its file under its hands.
    writing, dead_twin, killed = (
        folder / f".a.json.{pid}.{when}.tmp"
        for pid, when in ((os.getpid(), time.monotonic_ns()), (os.getpid(), 1), (999999999, time.monotonic_ns()))
    )
    for path in (writing, dead_twin, killed):
        path.write_text("")
    run(scenes(np.random.default_rng(9), 2), tmp_path / "c")
    assert not dead.exists() and alive.exists() and foreign.exists()
    assert writing.exists() and not dead_twin.exists() and not killed.exists()
    assert sorted(path.name for path in home.glob(".staging*")) == sorted([alive.name, foreign.name])


def test_an_estimate_writes_nothing_and_counts_right(tmp_path: Path, rng: np.random.Generator) -> None:
    products = [*scenes(rng), dataclasses.replace(scenes(rng, 1)[0], product_id="fake/bad", error="user")]
    plan = plan_ingest(products, config=CONFIG, client="synchronous", sample=True)
    found = plan.estimate
    assert (len(plan.products), found.tiles, found.raw_bytes) == (4, 48, 48 * 3 * 16 * 16 * 2)
    assert found.seconds > 0 and 0 < found.stored_bytes < 2 * found.raw_bytes
    assert [failure.product_id for failure in plan.failures] == ["fake/bad"]
    assert "4 products, 48 tiles" in plan.sentence() and "1 products cannot be read" in plan.sentence()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("client", ["threads", "processes"])
def test_every_scheduler_gives_the_same_corpus(tmp_path: Path, rng, client: str) -> None:
    products = scenes(rng)
    expected = run(products, tmp_path / "synchronous").fingerprint
    seen: list[tuple[str, int, int]] = []
    report = run(products, tmp_path / client, client=client, progress=lambda *step: seen.append(step))
    assert report.fingerprint == expected
    assert seen[-1][1] == seen[-1][2] and {step for step, *_ in seen} == {"planning", "cutting"}


def test_a_cluster_gives_the_same_corpus(tmp_path: Path, rng: np.random.Generator) -> None:
    from distributed import LocalCluster

    products = scenes(rng)
    expected = run(products, tmp_path / "synchronous").fingerprint
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, protocol="tcp"
    ) as cluster:
        assert run(products, tmp_path / "cluster", client=cluster.scheduler_address).fingerprint == expected
    with pytest.raises(UserError, match="expected a Dask scheduler"):
        run(products, tmp_path / "none", client="nothing://x")


def test_memory_of_a_product_stays_bounded_by_its_regions(tmp_path: Path, rng, monkeypatch: pytest.MonkeyPatch) -> None:
    """No read is larger than the budget, and every pixel is read once."""
    reads: list[tuple[int, int]] = []
    real = cutting.NativeRaster.read

    def counted(self, rows, cols):
        reads.append((rows[1] - rows[0], cols[1] - cols[0]))
        return real(self, rows, cols)

    monkeypatch.setattr(cutting.NativeRaster, "read", counted)
    monkeypatch.setattr(cutting, "REGION_BYTES", 4 * 3 * 64 * 128)
    run([FakeProduct("fake/big", card(), reflectance(rng, height=512, width=384), blocks=(64, 64))], tmp_path / "c")
    assert max(high * wide for high, wide in reads) <= 64 * 128
    assert sum(high * wide for high, wide in reads) == 512 * 384
