"""Neighbours: planted copies are each other's nearest, the answer is that of a full search, and a page shows them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from sklearn.metrics import pairwise_distances

from embeddings import SIDE, save_vit, write_card, write_scene
from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.embedding import EMBEDDINGS, Embeddings, find_nearest, query_place, query_tile
from eo_ssl.embedding.table import build_schema, extract_vectors, open_writer
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import compute_sha256
from eo_ssl.manifest import Clock, finish, require
from eo_ssl.scene import Acquisition
from eo_ssl.workflows.embed import main as embed
from eo_ssl.workflows.search import main
from fake_scenes import FakeProduct, card

HOSTILE = "<script>window.hacked=1</script>"
PLACES = ((500000.0, 5000000.0), (520000.0, 5000000.0), (520000.0, 5000000.0))  # two dates of one place


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Corpus, encoder, embeddings: four products of 4 x 4 tiles; the last is a copy of the first at another place, with noise on half."""
    folder = tmp_path_factory.mktemp("search")
    rng = np.random.default_rng(5)
    images = [smooth(rng) for _ in range(3)]
    copy = images[0].copy()
    copy[:, 32:] += rng.normal(0, 0.002, copy[:, 32:].shape).astype(np.float32)
    images.append(copy)
    places = [*PLACES, (700000.0, 5500000.0)]
    found = [
        FakeProduct(
            f"fake/{HOSTILE if i == 3 else i}",
            card(labels=None),
            image,
            acquisition=Acquisition(f"202{i}-07-15T10:00:00Z", "", "", 0.0),
            where={"crs": "EPSG:32632", "transform": (10.0, 0.0, x, 0.0, -10.0, y)},
        )
        for i, (image, (x, y)) in enumerate(zip(images, places, strict=True))
    ]
    ingest(found, out=folder / "corpus", config=IngestConfig(size_px=SIDE, min_valid=0.0), client="synchronous")
    encoder = save_vit(folder / "vit")
    embed(str(encoder), str(folder / "corpus"), folder / "e", batch_size=8)
    return folder / "corpus", encoder, folder / "e"


def smooth(rng: np.random.Generator) -> np.ndarray:
    """Reflectance whose tiles differ: a random level per 4 x 4 px and band."""
    return np.kron(rng.uniform(0.02, 0.4, (3, 16, 16)), np.ones((4, 4))).astype(np.float32)


def index_of(table: Embeddings) -> list[dict]:
    return pq.read_table(table.folder / EMBEDDINGS).to_pylist()


def test_copies_are_each_others_nearest(made: tuple[Path, Path, Path]) -> None:
    table = Embeddings.open(made[2])
    rows = index_of(table)
    at_window = {(row["product_id"], row["row_off"], row["col_off"]): i for i, row in enumerate(rows)}
    for distance in ("cosine", "l2"):
        for (product, row, col), position in at_window.items():
            if product not in ("fake/0", f"fake/{HOSTILE}"):
                continue
            other = at_window["fake/0" if product != "fake/0" else f"fake/{HOSTILE}", row, col]
            hits = find_nearest(table, table.vector(position), k=3, distance=distance, without={position})
            assert hits.positions[0] == other
            assert (hits.distance[0] == 0) == (row < 32)  # an exact copy, or one with noise


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("group", [1, 7, 64, 1000])
def test_the_answer_is_that_of_a_full_search_however_the_file_is_cut(
    rng: np.random.Generator, tmp_path: Path, distance: str, group: int
) -> None:
    x = rng.normal(size=(300, 12)).astype(np.float32)
    x[150:170] = x[10:30]  # equal distances
    x[200:203] = 0.0
    table = as_table(tmp_path, x, group=group)
    for query in (x[3], x[12], rng.normal(size=12).astype(np.float32)):
        expected = pairwise_distances(
            query[None].astype(np.float64), x.astype(np.float64), metric={"l2": "euclidean"}.get(distance, distance)
        )[0]
        order = np.lexsort((np.arange(300), expected.round(6)))
        hits = find_nearest(table, query, k=25, distance=distance)  # type: ignore[arg-type]
        np.testing.assert_allclose(hits.distance, expected[order][:25], rtol=1e-5, atol=2e-6)
        assert hits.positions.tolist() == order[:25].tolist()
    everything = find_nearest(table, x[3], k=1000, distance=distance)  # type: ignore[arg-type]
    assert sorted(everything.positions.tolist()) == list(range(300))
    left = find_nearest(table, x[12], k=2, distance=distance, without={12, 152})  # type: ignore[arg-type]
    assert not {12, 152} & set(left.positions.tolist()) and len(left.positions) == 2


def as_table(folder: Path, x: np.ndarray, *, group: int) -> Embeddings:
    """A finished table of vectors, nothing else known of the tiles."""
    import pyarrow as pa

    form = build_schema(x.shape[1], stored="float32", about={})
    embedding = form.field("embedding")
    kept = pa.schema([form.field("row"), embedding], metadata=form.metadata)
    with open_writer(folder / EMBEDDINGS, kept) as file:
        for start in range(0, len(x), group):
            part = x[start : start + group]
            numbers = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), type=embedding.type)
            file.write_table(pa.table([pa.array(np.arange(start, start + len(part))), numbers], schema=kept))
    product = compute_sha256(folder / "embeddings.parquet")
    finish(folder, stage="embed", config={}, inputs={}, product=product, started=Clock())
    return Embeddings.open(folder)


def test_one_row_group_is_in_memory_at_a_time(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eo_ssl.embedding import search

    table = as_table(tmp_path, rng.normal(size=(500, 8)).astype(np.float32), group=32)
    sizes: list[int] = []
    real = extract_vectors
    monkeypatch.setattr(search, "extract_vectors", lambda c, d: (sizes.append(len(c)), real(c, d))[1])
    find_nearest(table, rng.normal(size=8).astype(np.float32), k=5)
    assert max(sizes) == 32 and sum(sizes) == 500


def test_a_tile_is_asked_for_by_row_window_or_place(made: tuple[Path, Path, Path]) -> None:
    table = Embeddings.open(made[2])
    rows = index_of(table)
    for position in (0, 17, 40):
        row = rows[position]
        short = row["product_id"].removeprefix("fake/")
        pixel = f"{row['row_off'] + 5},{row['col_off'] + 15}"
        middle = (row["bbox"]["xmin"] + row["bbox"]["xmax"]) / 2, (row["bbox"]["ymin"] + row["bbox"]["ymax"]) / 2
        for text in (str(row["row"]), f"{row['product_id']}:{pixel}", f"{short}:{pixel}"):
            query = query_tile(table, text)
            assert query.position == position
            assert np.array_equal(query.vector, np.asarray(row["embedding"], dtype=np.float32))
        here = [i for i, other in enumerate(rows) if other["location_id"] == row["location_id"]]
        assert query_place(table, *middle).position == max(
            here, key=lambda i: rows[i]["datetime"]
        )  # of two dates the later
        assert len(here) == (2 if row["product_id"] in ("fake/1", "fake/2") else 1)


def test_an_image_of_ones_own_finds_its_tile(
    made: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, encoder, folder = made
    reader = Corpus.open(corpus).stream(next(iter(Corpus.open(corpus).streams)))
    tile = reader.read([21])[0]
    framed = np.full((3, SIDE + 20, SIDE + 20), 0.9, dtype=np.float32)
    framed[:, 10:-10, 10:-10] = tile
    image = write_scene(tmp_path / "own.tif", framed)
    shuffled = "bands: [B04, B02, B03]"
    with rasterio.open(image) as file:
        pixels = file.read()
    write_scene(tmp_path / "own.tif", pixels[[2, 0, 1]], bands=("B04", "B02", "B03"))
    from embeddings import CARD

    known = write_card(tmp_path / "card.yaml", CARD.replace("bands: [B02, B03, B04]", shuffled))
    main(folder, image=image, encoder=str(encoder), card=known, k=2, out=tmp_path / "page")
    printed = capsys.readouterr().out
    assert re.search(r"^1 +\d\.?\d*(e-\d+)? +21 ", printed, flags=re.MULTILINE), printed
    assert "Query: the middle of" in (tmp_path / "page" / "index.html").read_text()


def test_elsewhere_leaves_out_the_ground_of_the_query(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    table = Embeddings.open(made[2])
    rows = index_of(table)
    asked = next(row for row in rows if row["product_id"] == "fake/1")
    main(made[2], like=str(asked["row"]), k=100, elsewhere=True, out=tmp_path / "page")
    page = (tmp_path / "page" / "index.html").read_text()
    others = [row for row in rows if row["location_id"] != asked["location_id"]]
    assert len(others) == len(rows) - 2
    assert page.count('<td class="num" data-value="') == 3 * len(others)


def test_the_page_is_self_contained_and_escapes_what_it_is_told(
    made: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(made[2], like="fake/0:0,0", k=6, out=tmp_path / "page")
    html = (tmp_path / "page" / "index.html").read_text()
    assert HOSTILE not in html and "&lt;script&gt;window.hacked" in html
    assert html.count("data:image/webp;base64,") == 7
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    manifest = require(tmp_path / "page", "search")
    assert manifest.inputs["embeddings"] == require(made[2], "embed").fingerprint
    for said in (*manifest.inputs.values(), Corpus.open(made[0]).fingerprint, "nobody", "CC0"):
        assert said in html
    capsys.readouterr()
    main(made[2], like="fake/0:0,0", k=6, out=tmp_path / "page")
    assert "nothing to do" in capsys.readouterr().out


REFUSED = {
    "two questions": ({"like": "0", "lonlat": "9,45"}, "expected one of like, lonlat and image, got like, lonlat"),
    "no question": ({}, "got none; ask for one thing"),
    "no such row": ({"like": "64000"}, r"that was embedded \(64 tiles\), got 64000"),
    "no such product": ({"like": "fake/9:0,0"}, "expected one of the 4 products of the table, got 'fake/9'"),
    "outside its tiles": ({"like": "fake/0:900,0"}, "inside a tile that was embedded, got row 900, column 0"),
    "no form": ({"like": "first"}, "expected a row such as 17 or a window"),
    "no tile there": ({"lonlat": "0,0"}, r"where there is none \(the nearest lies \d{4}\.\d km away\)"),
    "latitude first": ({"lonlat": "45,95"}, r"longitude \(-180 ... 180\) comes first"),
    "no numbers": ({"lonlat": "nine"}, "expected longitude,latitude such as"),
    "k": ({"like": "0", "k": 0}, "expected k of at least 1 neighbour, got 0; give a larger --k"),
    "encoder without image": (
        {"like": "0", "encoder": "x"},
        "expected encoder and card with an image only, got encoder",
    ),
    "image alone": ({"image": Path("x.tif")}, "expected --encoder and --card with an image, got neither"),
    "image without encoder": ({"image": Path("x.tif"), "card": "c"}, "with an image, got --card; the card says"),
    "nothing": ({"like": " "}, "expected a row such as 17"),
    "a power": ({"like": "17²"}, "expected a row such as 17"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_questions_that_cannot_be_answered_are_refused(made: tuple[Path, Path, Path], what: str) -> None:
    options, words = REFUSED[what]
    with pytest.raises(UserError, match=words):
        main(made[2], **options)


def test_another_encoder_another_corpus_and_maps_are_refused(
    made: tuple[Path, Path, Path], rng: np.random.Generator, tmp_path: Path
) -> None:
    _, encoder, folder = made
    image = write_scene(tmp_path / "own.tif", rng.uniform(0, 0.3, (3, 32, 32)))
    known = write_card(tmp_path / "card.yaml")
    other = save_vit(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="embeddings of two encoders cannot be compared, so give that encoder"):
        main(folder, image=image, encoder=str(other), card=known)
    small = write_scene(tmp_path / "small.tif", rng.uniform(0, 0.3, (3, 12, 32)))
    with pytest.raises(UserError, match="expected an image of at least 16 x 16 px"):
        main(folder, image=small, encoder=str(encoder), card=known)
    found = [FakeProduct("fake/x", card(labels=None), smooth(rng))]
    ingest(found, out=tmp_path / "else", config=IngestConfig(size_px=SIDE, min_valid=0.0), client="synchronous")
    with pytest.raises(UserError, match=r"got another at .*; give its place with --corpus"):
        main(folder, like="0", corpus=tmp_path / "else", out=tmp_path / "page")
    with pytest.raises(UserError, match=r"got none .*; give its place with --corpus"):
        main(folder, like="0", corpus=tmp_path / "absent", out=tmp_path / "page")
    embed(str(encoder), str(image), tmp_path / "maps", card=known)
    with pytest.raises(UserError, match=r"expected a table of embeddings in .*, got maps of scenes"):
        main(tmp_path / "maps", like="0")
    assert not (tmp_path / "page").exists()
