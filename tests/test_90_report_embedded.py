"""Bundles and embeddings on the page: what is planted in a file is read off its picture, its figures and its words."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from embeddings import BANDS, CARD, save_vit, write_card, write_scene
from eo_ssl.cards import load_card
from eo_ssl.embedding import find_scenes
from eo_ssl.errors import UserError
from eo_ssl.export import contract_file
from eo_ssl.export.torchgeo_naming import resize_for_torchgeo
from eo_ssl.fingerprints import compute_sha256
from eo_ssl.manifest import Clock, finish
from eo_ssl.reporting import collect_report, render_report
from eo_ssl.reporting.formatting import trim_middle
from eo_ssl.reporting.pca import REST, list_known_classes
from eo_ssl.reporting.quicklooks import draw_components, draw_scene, estimate_spectrum
from eo_ssl.reporting.thumbnails import COLOUR_EXPONENT
from eo_ssl.workflows.embed import main as embed
from exported import encoder
from report_runs import HOSTILE, shared_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_run(tmp_path_factory)


# ---- pictures


def write_map(path: Path, values: np.ndarray) -> Path:
    """Write a map [D, h, w] as embeddings of a scene are written, in small blocks."""
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=len(values),
        height=values.shape[1],
        width=values.shape[2],
        dtype="float32",
        nodata=float("nan"),
        tiled=True,
        blockxsize=16,
        blockysize=16,
        crs="EPSG:32632",
        transform=rasterio.Affine(80, 0, 6e5, 0, -80, 5e6),
    ) as file:
        file.write(values.astype(np.float32))
    return path


@pytest.mark.parametrize("shape", [(40, 60), (700, 900)])  # as it is, and thinned
def test_components_of_a_map_are_its_planted_directions(
    rng: np.random.Generator, tmp_path: Path, shape: tuple[int, int]
) -> None:
    height, width = shape
    values = rng.normal(0, 1e-3, (5, height, width))
    values[3, :, width // 2 :] += 5  # the first component: left against right
    values[1, height // 2 :] -= 2  # the second: top against bottom
    values[:, 3 * height // 8 : 5 * height // 8, 3 * width // 8 : 5 * width // 8] = np.nan  # the middle
    with rasterio.open(write_map(tmp_path / "m.tif", values)) as file:
        spectrum = estimate_spectrum(file)
        look = draw_components(file, spectrum)
    assert spectrum.rank_me == pytest.approx(2, abs=0.35)
    rows, columns = look.shape[:2]
    assert max(rows, columns) <= 384 and look[rows // 2, columns // 2, 3] == 0
    left, right, bottom = look[1, 1], look[1, -2], look[-2, -2]
    assert left[0] < 5 and right[0] > 250 and right[3] == 255
    assert right[1] > 250 and bottom[1] < 25  # the sign is that of the largest entry, here of band 1 downwards


def test_a_scene_is_shown_in_true_colour_whatever_the_order_of_its_bands(tmp_path: Path) -> None:
    image = np.zeros((3, 800, 400), dtype=np.float32)
    image[0, 400:] = 0.36  # blue at the white point, in the lower half
    image[2, ::2] = 0.36  # red in every other row: two or one of three in block means
    image[:, :64, :64] = np.nan
    pictures = []
    for name, order in (("a", [0, 1, 2]), ("b", [2, 0, 1])):
        write_scene(tmp_path / name / "scene.tif", image[order], bands=tuple(BANDS[i] for i in order))
        bands = f"[{', '.join(BANDS[i] for i in order)}]"
        card = load_card(write_card(tmp_path / name / "card.yaml", CARD.replace("[B02, B03, B04]", bands)))
        (product,) = find_scenes(str(tmp_path / name / "scene.tif"), card)
        picture, words = draw_scene(product.open())
        assert words.startswith("True colour (B04, B03, B02)")
        pictures.append(picture)
    assert np.array_equal(*pictures)
    picture = pictures[0]
    assert picture.shape == (267, 134, 4) and picture[5, 5, 3] == 0
    assert picture[200, 100].tolist() == [round(255 * (2 / 3) ** COLOUR_EXPONENT), 0, 255, 255]  # rows 600, 601, 602
    assert picture[100, 100, 2] == 0


# ---- what is known of tiles


def test_tiles_are_coloured_by_what_is_known_of_them() -> None:
    box = {"xmin": 9.0, "xmax": 9.1}
    rows = [
        {"label_name": "", "datetime": "2021-12-31T10:00:00Z", "bbox": {**box, "ymin": 61.0, "ymax": 61.2}},
        {"label_name": "water | ice", "datetime": "2021-02-01T10:00:00Z", "bbox": {**box, "ymin": 61.0, "ymax": 61.2}},
        {"label_name": "built", "datetime": "2021-08-01T10:00:00Z", "bbox": {**box, "ymin": -33.0, "ymax": -32.8}},
        {"label_name": "built", "datetime": "", "bbox": dict.fromkeys(("xmin", "xmax", "ymin", "ymax"))},
    ]
    label, months, latitude = list_known_classes(rows)
    assert (label.names, label.of_row.tolist()) == (("built", "water | ice"), [REST, 1, 0, 0])
    assert (months.names, months.of_row.tolist()) == (("Dec–Feb", "Jun–Aug"), [0, 0, 1, REST])
    assert (latitude.names, latitude.of_row.tolist()) == (("north of 60°N", "south of 20°S"), [0, 0, 1, REST])
    assert list_known_classes(rows[:1]) == []  # what does not differ says nothing


def test_more_labels_than_colours_are_put_together() -> None:
    names = [f"c{i}" for i in range(9) for _ in range(9 - i)]
    nowhere = dict.fromkeys(("xmin", "xmax", "ymin", "ymax"))
    (classes,) = list_known_classes([{"label_name": name, "datetime": "", "bbox": nowhere} for name in names])
    assert classes.names == ("c0", "c1", "c2", "c3", "c4", "c5")
    assert (classes.of_row == REST).sum() == 3 + 2 + 1


# ---- the page


def text_of(page: str, section: str) -> str:
    """The words of one section."""
    (part,) = re.findall(rf'<section class="part" id="{section}">(.*?)</section>', page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", part))


def test_embeddings_are_shown_with_their_rank_their_ground_and_their_owners(run: Path) -> None:
    report = collect_report([run / "embedded", run / "maps"])
    assert [name for name, _ in report.sections][-2:] == ["embedded", "provenance"]
    tiles, maps = report.embeddings
    page = render_report(report)
    said = text_of(page, "embedded")
    assert "Garrido et al. 2023" in said and "1 2 map" not in said
    ranks = {float(value) for value in re.findall(r"(\d+\.\d) of 192", said)}
    assert ranks and all(1 <= value <= 192 for value in ranks)
    assert [figure.title for figure in tiles.figures][-3:-1] == ["Singular values", "Where"]
    assert "by label" in tiles.figures[0].title
    dots = re.findall(r'stroke-width:4;[^>]* d="([^"]*)"', str(tiles.figures[0].svg))
    assert sum(path.count("M") for path in dots) == tiles.n_rows
    assert [len(look.thumbs) for look in maps.looks] == [2, 2] and maps.notes == ()
    assert maps.lines[0][:4] == ("a.tif", "12 × 20", "40 m", "2023-06-01")
    assert HOSTILE not in page and "&lt;script&gt;window.hacked=1&lt;/script&gt; owners of optical" in page
    assert "nobody &amp; sons" in page and "forbidden" in said  # the licence of the card is non-commercial


def test_a_scene_that_has_changed_or_gone_is_not_shown_for_the_map(rng: np.random.Generator, tmp_path: Path) -> None:
    save_vit(tmp_path / "vit")
    for name in ("a", "b"):
        write_scene(tmp_path / "scenes" / f"{name}.tif", rng.uniform(0, 0.3, (3, 32, 32)))
    embed(str(tmp_path / "vit"), str(tmp_path / "scenes"), tmp_path / "maps", card=write_card(tmp_path / "c.yaml"))
    write_scene(tmp_path / "scenes" / "b.tif", rng.uniform(0, 0.3, (3, 32, 32)))
    (view,) = collect_report([tmp_path / "maps"]).embeddings
    assert [len(look.thumbs) for look in view.looks] == [2, 1]
    assert view.notes == ("Some of its scenes are gone or have changed, hence no pictures of them.",)
    shutil.rmtree(tmp_path / "scenes")
    (view,) = collect_report([tmp_path / "maps"]).embeddings
    assert [len(look.thumbs) for look in view.looks] == [1, 1]
    assert "could not be opened again" in view.notes[0]


@pytest.mark.parametrize("what", ["gone", "cut off"])
def test_embeddings_that_do_not_open_are_refused_in_a_sentence(run: Path, tmp_path: Path, what: str) -> None:
    for name, file in (("embedded", "embeddings.parquet"), ("maps", "b.tif")):
        path = Path(shutil.copytree(run / name, tmp_path / name)) / file
        if what == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=rf"{re.escape(str(path))}.*; run the same `eo-ssl embed` again"):
            collect_report([path.parent])


def test_a_bundle_says_what_it_opens_with_what_goes_in_and_what_may_be_done(run: Path, tmp_path: Path) -> None:
    report = collect_report([run / "bundle"])
    said = text_of(render_report(report), "exported")
    assert "timm registers no vit_tiny_patch8_224" in said and "Commercial use not known" in said
    (bundle,) = report.bundles
    assert [library for library, _ in bundle.routes] == ["timm", "pystac"]
    assert any(line == "Convert gamma0 to gamma0_db." for _, words in bundle.contracts for line in words)

    ours = encoder()
    folder = tmp_path / "left <b>"
    folder.mkdir()
    content = contract_file.describe_configurations(ours, resize_for_torchgeo(ours, "vit_small_patch16_224"), reason="")
    (folder / "preprocess.json").write_bytes(contract_file.to_bytes(content))
    (folder / "torchgeo_classification.ckpt").write_bytes(b"x" * 2_000_000)
    licence = {"licence": "CC BY-NC 4.0", "attribution": HOSTILE, "non_commercial": True}
    summary = {
        "torchgeo": "vit_small_patch16_224",
        "torchgeo_left_out": "",
        "cosine_native_to_torchgeo": 0.98765,
        "cosine_between_images": 0.25,
        "files": {path.name: compute_sha256(path) for path in sorted(folder.iterdir())} | {"absent.pth": "c" * 64},
        "non_commercial": True,
        "licences": [licence],
    }
    finish(
        folder,
        stage="export",
        config={"licence": "other"},
        inputs={},
        product="d" * 64,
        started=Clock(),
        summary=summary,
    )
    page = render_report(collect_report([folder]))
    said = text_of(page, "exported")
    assert "Commercial use forbidden" in said and "Cosine native to 224 px 0.9877" in said
    assert "those of different images it is 0.2500" in said
    assert "left &lt;b&gt;" in page and "left <b>" not in page and HOSTILE not in page
    (bundle,) = collect_report([folder]).bundles
    assert [line for _, line in bundle.routes] == [
        'ClassificationTask("vit_small_patch16_224", weights="left <b>/torchgeo_classification.ckpt", in_channels=2)'
    ]
    assert [title for title, _ in bundle.contracts] == ["As trained, 64 px", "For TorchGeo, 224 px"]
    assert bundle.files[2][1:3] == ("checkpoint for classification", "2.0 MB") and bundle.files[0][2] == "–"


def test_names_are_shortened_in_the_middle() -> None:
    assert trim_middle("S2_L2A_steppe:128,320", 21) == "S2_L2A_steppe:128,320"
    assert trim_middle("S2_L2A_steppe:128,320", 11) == "S2_L2…8,320"
    assert [len(trim_middle("abcdefgh", n)) for n in (8, 7, 3)] == [8, 7, 3]
