"""A map of embeddings: seams vanish, constants stay, nodata and georeference are exact, and the graph grows with the scene."""

from __future__ import annotations

import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from pyproj import Transformer

from catalogues import card as stac_card
from catalogues import tile as tile
from embeddings import BANDS, CARD, PATCH, SIDE, PatchMeans, Placed, contract, save_vit, vit, write_card, write_scene
from eo_ssl.cards import load_card
from eo_ssl.embedding import SceneSettings, embed_scene, find_scenes, name_maps, prepare_encoder
from eo_ssl.embedding.scenes import SceneEmbedder, measure_token_grid
from eo_ssl.encoder import Encoder, load_encoder
from eo_ssl.errors import UserError
from eo_ssl.manifest import require
from eo_ssl.workflows.embed import main

HEIGHT, WIDTH = 93, 150  # neither a multiple of the patch


def reflectance(rng: np.random.Generator, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return rng.uniform(0.0, 0.4, (3, height, width)).astype(np.float32)


def opened(folder: Path, image: np.ndarray):
    write_scene(folder / "scene.tif", image)
    card = load_card(write_card(folder / "card.yaml"))
    (product,) = find_scenes(str(folder / "scene.tif"), card)
    return product.open()


def mapped(encoder: Encoder, cube, path: Path, **settings) -> np.ndarray:
    embed_scene(encoder, cube, path, settings=SceneSettings(**{"batch_size": 7, "group": 3, **settings}), tags={})
    with rasterio.open(path) as file:
        return file.read()


def direct(image: np.ndarray) -> np.ndarray:
    """Patch means and squares of the whole scene, cells that lie wholly inside only."""
    rows, cols = image.shape[1] // PATCH, image.shape[2] // PATCH
    cut = image[:, : rows * PATCH, : cols * PATCH].astype(np.float64)
    cells = cut.reshape(3, rows, PATCH, cols, PATCH)
    return np.concatenate([cells.mean(axis=(2, 4)), np.square(cells).sum(axis=0).mean(axis=(1, 3))[None]])


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("group", [1, 3, 50])
def test_a_map_of_an_encoder_that_ignores_where_its_window_lies_is_the_direct_computation(
    rng: np.random.Generator, tmp_path: Path, overlap: float, group: int
) -> None:
    image = reflectance(rng)
    found = mapped(PatchMeans(contract()), opened(tmp_path, image), tmp_path / "m.tif", overlap=overlap, group=group)
    assert found.shape == (4, -(-HEIGHT // PATCH), -(-WIDTH // PATCH))
    expected = direct(image)
    inside = found[:, : expected.shape[1], : expected.shape[2]]
    np.testing.assert_allclose(inside, expected, rtol=2e-5, atol=1e-6)


def test_a_constant_scene_has_a_constant_map_under_a_real_encoder(tmp_path: Path) -> None:
    image = np.full((3, 64, 64), 0.2, dtype=np.float32)
    encoder = vit()
    found = mapped(encoder, opened(tmp_path, image), tmp_path / "m.tif", overlap=0.5)
    # Position embeddings make the tokens of one window differ; the blend of all windows repeats with the stride once inside.
    x, _ = encoder.preprocessing(
        torch.full((1, 3, SIDE, SIDE), 0.2), bands=BANDS, quantity="boa_reflectance", sensor="sentinel2_l2a"
    )
    with torch.inference_mode():
        window = encoder.tokens(x)[0].numpy().reshape(4, 4, -1)
    weight = np.sin(np.pi * (np.arange(4) + 0.5) / 4) ** 2
    halves = [sum(weight[i + 2 * h] * window[i + 2 * h] for h in (0, 1)) for i in (0, 1)]  # rows blended, [2][4, D]
    for i in (0, 1):
        for j in (0, 1):
            expected = sum(weight[j + 2 * h] * halves[i][j + 2 * h] for h in (0, 1))
            inner = found[:, 2 + i : -2 : 2, 2 + j : -2 : 2]
            np.testing.assert_allclose(
                inner, np.broadcast_to(expected[:, None, None], inner.shape), rtol=1e-4, atol=1e-5
            )


def test_overlapping_windows_smooth_the_seam_that_single_windows_leave(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    cube = opened(tmp_path, reflectance(rng, 64, 128))
    jumps = {}
    for overlap in (0.0, 0.5, 0.75):
        column = mapped(Placed(contract()), cube, tmp_path / f"{overlap}.tif", overlap=overlap)[-1, 8]
        jumps[overlap] = np.abs(np.diff(column[4:-4])).max()
    # From column 3 of one window to column 0 of the next without overlap; blended, the saw-tooth flattens.
    assert jumps[0.0] == 3
    assert jumps[0.5] < 1.1
    assert jumps[0.75] < 0.1


def test_missing_pixels_are_missing_cells_and_no_others(rng: np.random.Generator, tmp_path: Path) -> None:
    image = reflectance(rng, 64, 64)
    image[:, :9, :] = np.nan  # two cells and a quarter: the third row of cells has 3/4 of its pixels
    image[1, 32:36, 32:34] = np.nan  # half of a cell in one band
    image[2, 40:44, 40:43] = np.nan  # three quarters of a cell in one band
    found = mapped(PatchMeans(contract()), opened(tmp_path, image), tmp_path / "m.tif")
    expected = np.zeros((16, 16), dtype=bool)
    expected[:2] = expected[10, 10] = True
    for band in found:
        assert (np.isnan(band) == expected).all()
    with rasterio.open(tmp_path / "m.tif") as file:
        assert np.isnan(file.nodata)


def test_a_scene_without_a_pixel_and_one_smaller_than_a_window(rng: np.random.Generator, tmp_path: Path) -> None:
    void = np.full((3, 40, 40), np.nan, dtype=np.float32)
    write_scene(tmp_path / "void.tif", void)
    small = reflectance(rng, 12, 20)
    write_scene(tmp_path / "small.tif", small)
    card = load_card(write_card(tmp_path / "card.yaml"))
    for name in ("void", "small"):
        (product,) = find_scenes(str(tmp_path / f"{name}.tif"), card)
        found = mapped(PatchMeans(contract()), product.open(), tmp_path / f"{name}_map.tif")
        if name == "void":
            assert np.isnan(found).all() and found.shape == (4, 10, 10)
        else:
            np.testing.assert_allclose(found, direct(small), rtol=1e-4, atol=1e-6)


def test_a_planted_place_is_found_again_in_the_map(tmp_path: Path) -> None:
    image = np.full((3, 96, 128), 0.1, dtype=np.float32)
    image[:, 44:48, 100:104] = 0.9  # the cell in row 11, column 25
    found = mapped(PatchMeans(contract()), opened(tmp_path, image), tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as file:
        row, col = np.unravel_index(found[0].argmax(), found[0].shape)
        x, y = file.xy(row, col)
        assert (x, y) == (600000 + 10 * 102, 5100000 - 10 * 46)
        assert file.crs.to_epsg() == 32632
        assert file.transform == rasterio.Affine(40, 0, 600000, 0, -40, 5100000)
        lon, lat = Transformer.from_crs(32632, "OGC:CRS84", always_xy=True).transform(x, y)
        assert (10.2 < lon < 10.4) and (45.9 < lat < 46.1)


def test_the_file_is_a_cloud_optimized_geotiff_that_says_what_it_holds(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    encoder, cube = vit(), opened(tmp_path, reflectance(rng))
    embed_scene(encoder, cube, tmp_path / "m.tif", settings=SceneSettings(), tags={"EO_SSL_NON_COMMERCIAL": "true"})
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.count == encoder.dim and file.dtypes[0] == "float32"
        assert file.descriptions[:2] == ("embedding_0000", "embedding_0001")
        said = file.tags()
    assert said["EO_SSL_ENCODER_FINGERPRINT"] == encoder.fingerprint
    assert said["EO_SSL_BANDS"] == "B02 B03 B04" and said["EO_SSL_QUANTITY"] == "boa_reflectance"
    assert (said["EO_SSL_PATCH_PX"], said["EO_SSL_WINDOW_PX"], said["EO_SSL_STRIDE_PX"]) == ("4", "16", "8")
    assert said["EO_SSL_LICENCE"] == "CC BY-NC 4.0" and said["EO_SSL_ATTRIBUTION"] == "nobody & sons"
    assert said["EO_SSL_NON_COMMERCIAL"] == "true" and said["EO_SSL_DATETIME"].startswith("2023-06-01")


def test_half_precision_loses_half_precision_only(rng: np.random.Generator, tmp_path: Path) -> None:
    cube = opened(tmp_path, reflectance(rng))
    whole = mapped(vit(), cube, tmp_path / "a.tif")
    half = mapped(vit(), cube, tmp_path / "b.tif", stored="float16")
    np.testing.assert_allclose(half, whole, rtol=2**-10, atol=1e-6)
    assert (half != whole).any()


def test_threads_and_one_thread_and_any_block_give_the_same_map(rng: np.random.Generator, tmp_path: Path) -> None:
    cube = opened(tmp_path, reflectance(rng))
    one = mapped(vit(), cube, tmp_path / "1.tif", dask="synchronous")
    assert np.array_equal(one, mapped(vit(), cube, tmp_path / "2.tif", dask="threads"), equal_nan=True)
    for group in (1, 20):
        other = mapped(vit(), cube, tmp_path / f"g{group}.tif", group=group)
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_the_graph_grows_with_the_blocks_and_each_window_is_encoded_once(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    encoder = PatchMeans(contract())
    seen: list[int] = []
    tokens = encoder.tokens
    encoder.tokens = lambda x, **_: (seen.append(len(x)), tokens(x))[1]  # type: ignore[method-assign]
    counts = {}
    for size in (64, 128, 256):
        scene = SceneEmbedder(encoder, opened(tmp_path, reflectance(rng, size, size)), SceneSettings(group=4))
        seen.clear()
        done: list[None] = []
        found = embed_scene(
            encoder,
            scene.cube,
            tmp_path / f"{size}.tif",
            settings=SceneSettings(group=4),
            tags={},
            progress=partial(done.append, None),
        )
        assert sum(seen[1:]) == found.windows  # the first call asks how tokens lie
        counts[size] = (found.blocks, len(done))
    assert counts == {64: (4, 11), 128: (16, 37), 256: (64, 137)}  # two tasks per block, one per row, one in all


def test_a_killed_disk_leaves_nothing_behind(rng: np.random.Generator, tmp_path: Path) -> None:
    cube = opened(tmp_path, reflectance(rng))
    encoder = PatchMeans(contract())
    encoder.tokens = lambda x, **_: torch.full((len(x), 16, 4), torch.nan)  # type: ignore[method-assign]
    with pytest.raises(UserError, match="expected finite tokens of patch_means"):
        embed_scene(encoder, cube, tmp_path / "out" / "m.tif", settings=SceneSettings(), tags={})
    assert list((tmp_path / "out").iterdir()) == []


def test_decibels_and_power_become_each_other_as_when_ingested(rng: np.random.Generator, tmp_path: Path) -> None:
    power = rng.uniform(0.01, 0.5, (2, 32, 32)).astype(np.float32)
    text = CARD.replace("sentinel2_l2a", "sentinel1_rtc").replace("[B02, B03, B04]", "[VV, VH]")
    radar = contract(
        sensor="sentinel1_rtc",
        quantity="gamma0",
        bands=("VV", "VH"),
        range=(-0.01, 50.0),
        mean=(0.0, 0.0),
        std=(1.0, 1.0),
    )
    maps = []
    for name, values, quantity in (("p", power, "gamma0"), ("d", 10 * np.log10(power), "gamma0_db")):
        write_scene(tmp_path / f"{name}.tif", values)
        card = load_card(write_card(tmp_path / f"{name}.yaml", text.replace("boa_reflectance", quantity)))
        (product,) = find_scenes(str(tmp_path / f"{name}.tif"), card)
        maps.append(mapped(PatchMeans(radar), product.open(), tmp_path / f"{name}_map.tif"))
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-4)


WRONG = {
    "another sensor": (
        {"sensor": "sentinel2_l1c", "quantity": "toa_reflectance"},
        "expected bands of sentinel2_l1c, got bands of sentinel2_l2a",
    ),
    "another quantity": (
        {"quantity": "dn", "range": (0.0, 10000.0)},
        "expected dn, got boa_reflectance; convert the values first",
    ),
    "a missing band": ({"bands": ("B02", "B03", "B08")}, "without B08; add them, or choose missing"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_contract_refuses_a_scene_that_does_not_fit(rng: np.random.Generator, tmp_path: Path, what: str) -> None:
    changes, words = WRONG[what]
    cube = opened(tmp_path, reflectance(rng, 32, 32))
    with pytest.raises(UserError, match=words):
        embed_scene(PatchMeans(contract(**changes)), cube, tmp_path / "m.tif", settings=SceneSettings(), tags={})
    assert not (tmp_path / "m.tif").exists()


def test_tokens_that_are_no_square_of_patches_are_refused() -> None:
    with pytest.raises(
        UserError, match="expected tokens on a square grid of equal patches of 16 px, got 196 tokens of rcf"
    ):
        measure_token_grid(load_encoder("rcf", preprocessing=contract()))
    with pytest.raises(UserError, match="choose one with --window_px"):
        measure_token_grid(PatchMeans(contract(resize="native", interpolation="nearest", antialias=False)))
    assert measure_token_grid(load_encoder("imagestats", preprocessing=contract())).side == 1


def test_the_command_makes_a_map_of_each_scene_once_and_says_whose_data_they_are(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, card = str(save_vit(tmp_path / "vit")), write_card(tmp_path / "card.yaml")
    for name in ("a", "b"):
        write_scene(tmp_path / "scenes" / f"{name}.tif", reflectance(rng, 48, 48))
    out = tmp_path / "maps"
    main(encoder, str(tmp_path / "scenes"), out, card=card)
    manifest = require(out, "embed")
    assert sorted(path.name for path in out.iterdir()) == ["a.tif", "b.tif", "manifest.json"]
    assert manifest.inputs["encoder"] == vit().fingerprint
    assert manifest.summary["licences"][0]["non_commercial"] is True
    capsys.readouterr()
    main(encoder, str(tmp_path / "scenes"), out, card=card)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"differs in config\.overlap"):
        main(encoder, str(tmp_path / "scenes"), out, card=card, overlap=0.25)
    main(encoder, str(tmp_path / "scenes" / "a.tif"), tmp_path / "one", card=card)  # a file alone gives the same map
    with rasterio.open(tmp_path / "one" / "a.tif") as one, rasterio.open(out / "a.tif") as other:
        assert np.array_equal(one.read(), other.read())


def test_another_window_of_the_same_weights(rng: np.random.Generator, tmp_path: Path) -> None:
    model = prepare_encoder(str(save_vit(tmp_path / "vit")), window_px=32)
    assert (
        measure_token_grid(model) == measure_token_grid(vit().at_size(32)) and measure_token_grid(model).window_px == 32
    )
    found = mapped(model, opened(tmp_path, reflectance(rng, 64, 64)), tmp_path / "m.tif")
    assert found.shape[1:] == (16, 16) and np.isfinite(found).all()


def test_refusals_of_the_command_say_what_to_do(rng: np.random.Generator, tmp_path: Path) -> None:
    encoder, card = str(save_vit(tmp_path / "vit")), write_card(tmp_path / "card.yaml")
    scene = str(write_scene(tmp_path / "scene.tif", reflectance(rng, 32, 32)))
    with pytest.raises(UserError, match="expected --card for the scene"):
        main(encoder, scene, tmp_path / "o")
    with pytest.raises(UserError, match="expected options of scenes, got split; leave out"):
        main(encoder, scene, tmp_path / "o", card=card, split="train")
    with pytest.raises(UserError, match="imagestats is normalised, got none; give --statistics"):
        main("imagestats", scene, tmp_path / "o", card=card)
    with pytest.raises(UserError, match="got nothing there; correct the path"):
        main(encoder, str(tmp_path / "absent.tif"), tmp_path / "o", card=card)
    with pytest.raises(UserError, match="18"):
        main(encoder, scene, tmp_path / "o", card=card, window_px=18)
    top = str(save_vit(tmp_path / "top", sensor="sentinel2_l1c", quantity="toa_reflectance"))
    with pytest.raises(
        UserError, match="expected a scene of sentinel2_l1c for top, got one of sentinel2_l2a; give another"
    ):
        main(top, scene, tmp_path / "o", card=card)
    with pytest.raises(UserError, match="at least one window per forward pass, got 0"):
        main(encoder, scene, tmp_path / "o", card=card, batch_size=0)
    with pytest.raises(UserError, match="expected an overlap from 0 to below 1, got 1"):
        main(encoder, scene, tmp_path / "o", card=card, overlap=1.0)
    for missing in ("bands", "quantity"):
        text = "\n".join(line for line in CARD.splitlines() if not line.startswith(missing))
        with pytest.raises(UserError, match=f"to have the key '{missing}', got none; add it"):
            main(encoder, scene, tmp_path / "o", card=write_card(tmp_path / "less.yaml", text))
    more = CARD.replace("[B02, B03, B04]", "[B02, B03, B04, B08]")
    with pytest.raises(UserError, match=r"expected 4 bands in .* as card more lists, got 3; correct `bands`"):
        main(encoder, scene, tmp_path / "o", card=write_card(tmp_path / "more.yaml", more))
    assert not (tmp_path / "o").exists()


def test_names_of_files_come_from_ids_but_lead_nowhere_else(tmp_path: Path) -> None:
    class Named:
        def __init__(self, product_id: str) -> None:
            self.product_id = product_id

    ids = ["c/../../etc/x", "c/a b", "c/a_b", "c/", "c/2020/B.1"]
    names = name_maps(tuple(Named(one) for one in ids))  # type: ignore[arg-type]
    assert len(set(names)) == 5
    assert names[0] == "etc_x.tif" and names[3] == "scene.tif" and names[4] == "2020_B.1.tif"
    assert names[1].startswith("a_b-") and names[2].startswith("a_b-")


def test_memory_holds_a_row_of_blocks_not_the_scene(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live: set[int] = set()
    most: list[int] = []
    encode = SceneEmbedder.encode

    def counted(self: SceneEmbedder, i: int, j: int, after: int = 0):
        corner, total, valid = encode(self, i, j)
        key = len(most)
        live.add(key)
        weakref.finalize(total, live.discard, key)
        most.append(len(live))
        return corner, total, valid

    monkeypatch.setattr(SceneEmbedder, "encode", counted)
    peaks = {}
    for rows in (96, 384):
        most.clear()
        write_scene(tmp_path / f"{rows}.tif", reflectance(rng, rows, 192))
        (product,) = find_scenes(str(tmp_path / f"{rows}.tif"), load_card(write_card(tmp_path / "card.yaml")))
        mapped(PatchMeans(contract()), product.open(), tmp_path / f"{rows}_map.tif", group=2, dask="synchronous")
        peaks[rows] = (max(most), len(most))
    assert peaks[384][1] > 3.5 * peaks[96][1]  # four times the blocks
    assert peaks[384][0] <= 2 * 12 + 1  # two rows of 12


def test_a_stopped_run_goes_on_with_the_scenes_that_are_left(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, card = str(save_vit(tmp_path / "vit")), write_card(tmp_path / "card.yaml")
    for name in ("a", "b", "c"):
        write_scene(tmp_path / "scenes" / f"{name}.tif", reflectance(rng, 32, 32))
    made: list[str] = []

    def stopping(model, cube, path, **options):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(path.name)
        return embed_scene(model, cube, path, **options)

    monkeypatch.setattr("eo_ssl.embedding.embed_scene", stopping)
    with pytest.raises(KeyboardInterrupt):
        main(encoder, str(tmp_path / "scenes"), tmp_path / "maps", card=card)
    assert (tmp_path / "maps" / "unfinished.json").is_file()
    stale = tmp_path / "maps" / f".c.tif.{2**22 + 1}.5.tmp"  # of a process that died
    stale.touch()
    made.clear()
    main(encoder, str(tmp_path / "scenes"), tmp_path / "maps", card=card)
    assert made == ["c.tif"]
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["a.tif", "b.tif", "c.tif", "manifest.json"]


def test_a_stac_item_is_a_scene_and_a_catalogue_is_none(tile: tuple[Path, dict, dict], tmp_path: Path) -> None:
    root, _, _ = tile
    item, known = root / "2023" / "tile" / "item.json", stac_card()
    (product,) = find_scenes(str(item), known)
    cube = product.open(plausible=False)
    image = cube["image"].values
    bands = ("B02", "B05", "B09")
    found = mapped(PatchMeans(contract(bands=bands)), cube, tmp_path / "m.tif", min_valid=1.0)
    expected = direct(image)  # physical values of the item's own offset, on the grid of its 10 m band
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.transform == rasterio.Affine(40, 0, 600000, 0, -40, 5100000)
        assert file.tags()["EO_SSL_PRODUCT_ID"] == product.product_id
    with pytest.raises(UserError, match=r"expected a STAC item or item collection at .*, got Catalog; give the link"):
        find_scenes(str(root / "catalog.json"), known)


def test_another_order_of_the_bands_in_the_file_gives_the_same_map(rng: np.random.Generator, tmp_path: Path) -> None:
    image = reflectance(rng, 48, 48)
    first = mapped(vit(), opened(tmp_path / "a", image), tmp_path / "a.tif")
    write_scene(tmp_path / "b" / "scene.tif", image[[2, 0, 1]], bands=("B04", "B02", "B03"))
    turned = write_card(tmp_path / "b" / "card.yaml", CARD.replace("[B02, B03, B04]", "[B04, B02, B03]"))
    (product,) = find_scenes(str(tmp_path / "b" / "scene.tif"), load_card(turned))
    assert np.array_equal(first, mapped(vit(), product.open(), tmp_path / "b.tif"))
