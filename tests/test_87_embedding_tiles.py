"""The table of embeddings: equal to `extract` bit by bit, opened by geopandas, whole after a kill, refused where it does not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import torch

from embeddings import BANDS, save_vit
from eo_ssl.corpus import Corpus
from eo_ssl.embedding import EMBEDDINGS, Embeddings, TileSettings, embed_tiles, prepare_encoder
from eo_ssl.embedding.table import build_schema, build_table, extract_vectors
from eo_ssl.encoder import EmpiricalFeatures
from eo_ssl.errors import UserError
from eo_ssl.evaluation.features import extract_features
from eo_ssl.evaluation.sources import open_corpus_source
from eo_ssl.fingerprints import compute_sha256
from eo_ssl.manifest import require
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows.embed import main
from eo_ssl.workflows.ingest import main as ingest


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two places, two dates, one product delivered twice; three bands of 16 px, and radar."""
    folder = tmp_path_factory.mktemp("embed")
    make_archive(folder / "archive", seed=3, spec=ArchiveSpec(sites=2, dates=2, size_px=96))
    ingest("sample_s2_l2a", folder / "archive", folder / "corpus", size_px=16, bands=list(BANDS), dask="synchronous")
    ingest("sample_s1_rtc", folder / "archive", folder / "corpus", size_px=16, dask="synchronous")
    return folder / "corpus"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vit(tmp_path_factory.mktemp("encoder") / "vit")


def stream_of(corpus: Path, sensor: str) -> str:
    return next(name for name, stream in Corpus.open(corpus).streams.items() if stream.sensor == sensor)


def optical(corpus: Path) -> str:
    return stream_of(corpus, "sentinel2_l2a")


def test_every_number_is_that_of_the_forward_pass(corpus: Path, encoder: Path, tmp_path: Path) -> None:
    opened, name = Corpus.open(corpus), optical(corpus)
    model = prepare_encoder(str(encoder))
    expected = extract_features(model, open_corpus_source(opened, name), batch_size=8).x
    for part_tiles in (8, 20, 10_000):  # 20 is rounded up to whole batches
        out = tmp_path / str(part_tiles)
        settings = TileSettings(batch_size=8, part_tiles=part_tiles)
        embed_tiles(model, opened, name, rows=np.arange(opened.count(name)), out=out, settings=settings)
        made = pq.read_table(out / EMBEDDINGS)
        found = extract_vectors(made["embedding"], model.dim)
        assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))
        assert made["row"].to_pylist() == list(range(len(expected)))


def test_geopandas_opens_it_with_the_right_ground(corpus: Path, encoder: Path, tmp_path: Path) -> None:
    name = optical(corpus)
    main(str(encoder), str(corpus), tmp_path / "e", stream=name)
    frame = geopandas.read_parquet(tmp_path / "e" / EMBEDDINGS)
    index = Corpus.open(corpus).index(name)
    assert frame.crs == "OGC:CRS84"
    assert list(frame.geometry.to_wkb()) == index["geometry"].to_pylist()
    # An independent path: windows of the tiles and the transforms of the products, through geopandas' own reprojection.
    truth = {(row["product_id"], row["row_off"], row["col_off"]): row for row in index.to_pylist()}
    for epsg, part in frame.groupby("epsg"):
        metres = part.geometry.to_crs(int(epsg))
        np.testing.assert_allclose(metres.area, (16 * 10) ** 2, rtol=1e-3)
    for _, row in frame.iterrows():
        known = truth[row.product_id, row.row_off, row.col_off]
        assert (row.split, row.datetime, row.label_name) == (known["split"], known["datetime"], known["label_name"])
        assert (row.licence, row.attribution) == (known["licence"], known["attribution"])
    boxes = pq.read_table(tmp_path / "e" / EMBEDDINGS)[
        "bbox"
    ].to_pylist()  # geopandas reads it as an index and drops it
    for box, row in zip(boxes, index.to_pylist(), strict=True):
        assert box == pytest.approx({name: row[name] for name in ("xmin", "ymin", "xmax", "ymax")})
    west, south, east, north = frame.geometry.iloc[5].bounds
    middle = (west + east) / 2, (south + north) / 2
    inside = geopandas.read_parquet(tmp_path / "e" / EMBEDDINGS, bbox=(*middle, *middle))  # through the covering column
    assert 0 < len(inside) < len(frame) and inside.geometry.intersects(shapely.Point(middle)).all()


def test_the_file_says_what_made_it_and_whose_the_data_are(corpus: Path, encoder: Path, tmp_path: Path) -> None:
    name, opened = optical(corpus), Corpus.open(corpus)
    main(str(encoder), str(corpus), tmp_path / "e", stream=name)
    made = Embeddings.open(tmp_path / "e")
    model = prepare_encoder(str(encoder))
    assert made.about["encoder"]["fingerprint"] == model.fingerprint
    assert made.about["encoder"]["preprocessing"] == model.preprocessing.to_json()
    assert made.about["corpus"] == {"fingerprint": opened.fingerprint, "snapshot": opened.snapshot, "stream": name}
    assert {one["licence"] for one in made.about["licences"]} == {one["licence"] for one in opened.licences()}
    manifest = require(tmp_path / "e", "embed")
    assert manifest.inputs == {"encoder": model.fingerprint, "corpus": opened.fingerprint}
    assert manifest.fingerprint == compute_sha256(tmp_path / "e" / EMBEDDINGS)
    geo = json.loads(pq.read_schema(tmp_path / "e" / EMBEDDINGS).metadata[b"geo"])
    assert geo["version"] == "1.1.0" and geo["columns"]["geometry"]["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert pq.read_schema(tmp_path / "e" / EMBEDDINGS).field("embedding").type == pa.list_(
        pa.field("element", pa.float32(), nullable=False), model.dim
    )


def test_split_and_conditions_choose_the_tiles(corpus: Path, encoder: Path, tmp_path: Path) -> None:
    name = optical(corpus)
    index = Corpus.open(corpus).index(name)
    main(str(encoder), str(corpus), tmp_path / "e", stream=name, split="train", where=["cloud_fraction<0.2"])
    expected = [
        i
        for i, row in enumerate(index.to_pylist())
        if row["split"] == "train" and row["cloud_fraction"] < np.float32(0.2)
    ]
    assert pq.read_table(tmp_path / "e" / EMBEDDINGS)["row"].to_pylist() == expected
    with pytest.raises(UserError, match="that meet cloud_fraction>2, got none"):
        main(str(encoder), str(corpus), tmp_path / "n", stream=name, where=["cloud_fraction>2"])


def test_half_precision_halves_the_numbers_and_refuses_what_does_not_fit(
    corpus: Path, encoder: Path, tmp_path: Path
) -> None:
    name, opened = optical(corpus), Corpus.open(corpus)
    for stored in ("float32", "float16"):
        main(str(encoder), str(corpus), tmp_path / stored, stream=name, stored=stored)
    whole, half = (
        extract_vectors(pq.read_table(tmp_path / s / EMBEDDINGS)["embedding"], 192) for s in ("float32", "float16")
    )
    assert np.array_equal(half, whole.astype(np.float16).astype(np.float32))
    assert "embedding" in geopandas.read_parquet(tmp_path / "float16" / EMBEDDINGS)
    form = build_schema(1, stored="float16", about={})
    with pytest.raises(UserError, match="got up to 7e\\+04; store them as float32"):
        build_table(opened, name, np.array([0]), np.array([[7e4]], dtype=np.float32), form=form)


def test_the_same_command_does_nothing_and_another_configuration_is_refused(
    corpus: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = optical(corpus)
    main(str(encoder), str(corpus), tmp_path / "e", stream=name)
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == [EMBEDDINGS, "manifest.json"]
    capsys.readouterr()
    main(str(encoder), str(corpus), tmp_path / "e", stream=name)
    assert "nothing to do" in capsys.readouterr().out
    other = save_vit(tmp_path / "other" / "vit", seed=1)
    with pytest.raises(UserError, match=r"differs in inputs\.encoder; give another output folder or --overwrite"):
        main(str(other), str(corpus), tmp_path / "e", stream=name)


RUN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from eo_ssl.embedding import TileSettings
    from eo_ssl.workflows import embed
    embed.TileSettings = lambda *a, **k: TileSettings(*a, part_tiles=16, **k)
    encoder, corpus, out, stream = sys.argv[1:]
    embed.main(encoder, corpus, Path(out), stream=stream, batch_size=8)
    """
)


@pytest.mark.parametrize("point", ["after-temp-write:3", "before-join"])
def test_a_killed_run_repeats_at_most_one_part_and_gives_the_same_file(
    corpus: Path, encoder: Path, tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, out = optical(corpus), tmp_path / "e"
    script = tmp_path / "run.py"
    script.write_text(RUN)
    done = subprocess.run(
        [sys.executable, str(script), str(encoder), str(corpus), str(out), name],
        env=os.environ | {"EO_SSL_FAULT": point, "OMP_NUM_THREADS": "1", "EO_SSL_QUIET": "1"},
        start_new_session=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    finished = sorted(path.name for path in (out / "parts").glob("*.parquet"))
    count = Corpus.open(corpus).count(name)
    assert len(finished) == (1 if point != "before-join" else -(-count // 16))
    assert not (out / EMBEDDINGS).exists()

    from eo_ssl.embedding import tiles

    embedded: list[int] = []
    real = tiles.extract_features
    monkeypatch.setattr(tiles, "extract_features", lambda e, s, **k: (embedded.append(len(s)), real(e, s, **k))[1])
    monkeypatch.setattr("eo_ssl.workflows.embed.TileSettings", lambda *a, **k: TileSettings(*a, part_tiles=16, **k))
    main(str(encoder), str(corpus), out, stream=name, batch_size=8)
    assert embedded[0] == 1  # the check of one tile
    assert sum(embedded[1:]) == max(0, count - 16 * len(finished))  # what was finished is not made again
    main(str(encoder), str(corpus), tmp_path / "whole", stream=name, batch_size=8)
    assert compute_sha256(out / EMBEDDINGS) == compute_sha256(tmp_path / "whole" / EMBEDDINGS)
    assert sorted(path.name for path in out.iterdir()) == [EMBEDDINGS, "manifest.json"]


def test_a_weight_free_encoder_is_normalised_by_the_stream_it_embeds(corpus: Path, tmp_path: Path) -> None:
    name = stream_of(corpus, "sentinel1_rtc")
    main("imagestats", str(corpus), tmp_path / "e", stream=name)
    made = Embeddings.open(tmp_path / "e")
    known = made.about["encoder"]["preprocessing"]
    assert known["convert"] == ["gamma0->gamma0_db"]
    np.testing.assert_allclose(known["mean"], Corpus.open(corpus).statistics(name, "gamma0_db").mean)


def test_filters_of_a_fitted_encoder_are_patches_of_training_tiles_alone(corpus: Path, tmp_path: Path) -> None:
    name, opened = optical(corpus), Corpus.open(corpus)
    main("rcf_zca", str(corpus), tmp_path / "e", stream=name)
    made = Embeddings.open(tmp_path / "e")
    contract = Preprocessing.from_json(made.about["encoder"]["preprocessing"])
    train = np.flatnonzero(np.asarray(opened.index(name, columns=["split"])["split"].to_pylist()) == "train")
    x, _ = contract(
        torch.from_numpy(opened.stream(name).read(train)),
        bands=BANDS,
        quantity="boa_reflectance",
        sensor="sentinel2_l2a",
    )
    assert made.about["encoder"]["fingerprint"] == EmpiricalFeatures.fit(contract, x, seed=0).fingerprint


def test_what_does_not_fit_is_refused_with_the_remedy(corpus: Path, encoder: Path, tmp_path: Path) -> None:
    radar = stream_of(corpus, "sentinel1_rtc")
    with pytest.raises(
        UserError,
        match=f"expected a stream of sentinel2_l2a for vit, got {radar} of sentinel1_rtc; name {optical(corpus)} with --stream",
    ):
        main(str(encoder), str(corpus), tmp_path / "a", stream=radar)
    for named, got in ((None, "none"), ("s2", "s2")):
        with pytest.raises(
            UserError, match=rf"the 2 streams of .* \({radar}, {optical(corpus)}\), got {got}; name one with --stream"
        ):
            main(str(encoder), str(corpus), tmp_path / "b", stream=named)
    with pytest.raises(UserError, match=r"or a scene with --card, at .*, got nothing there; correct the path"):
        main(str(encoder), str(tmp_path / "nowhere"), tmp_path / "b")
    with pytest.raises(
        UserError, match=r"or --card for a folder of scenes, got the folder .* and no card; see `eo-ssl inspect cards`"
    ):
        main(str(encoder), str(tmp_path), tmp_path / "b")
    with pytest.raises(UserError, match="at least one tile per forward pass, got 0"):
        main(str(encoder), str(corpus), tmp_path / "b", stream=optical(corpus), batch_size=0)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="expected a GPU for --device cuda, got none"):
            main(str(encoder), str(corpus), tmp_path / "b", stream=optical(corpus), device="cuda")
    wrong = save_vit(tmp_path / "top", sensor="sentinel2_l2a", quantity="dn", range=(0.0, 1e4))
    with pytest.raises(UserError, match="expected dn, got boa_reflectance; convert the values first"):
        main(str(wrong), str(corpus), tmp_path / "c", stream=optical(corpus))
    other = save_vit(tmp_path / "bands", bands=("B02", "B03", "B08"))
    with pytest.raises(UserError, match="without B08; add them"):
        main(str(other), str(corpus), tmp_path / "d", stream=optical(corpus))
    with pytest.raises(UserError, match="expected options of a corpus, got window_px; leave out"):
        main(str(encoder), str(corpus), tmp_path / "e", stream=optical(corpus), window_px=32)
    # A folder that was begun used to be left behind, and the right command into it was refused as another configuration.
    assert not any((tmp_path / name).exists() for name in "abcde")
