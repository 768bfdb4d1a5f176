"""Documents, identity and radar of STAC items: damage stays with its item, checksums tell content, and gamma0 is linear."""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalogues import asset, card, item, only, scene, tile, write, write_cog
from eo_ssl.cards import Card
from eo_ssl.errors import UserError
from eo_ssl.scene import list_products
from eo_ssl.scene.stac import access
from eo_ssl.sensors import Quantity

__all__ = ["tile"]
BASE = "s2:processing_baseline"


# ----------------------------------------------------------------------------------------------------------------- identity, lists


def test_checksums_of_the_item_catch_every_changed_byte(tmp_path: Path, rng: np.random.Generator) -> None:
    path = write_cog(tmp_path / "B02.tif", rng.integers(1001, 9000, (64, 64), dtype=np.uint16))
    data = path.read_bytes()
    hashes = {"sha256": "1220" + hashlib.sha256(data).hexdigest(), "sha1": "1114" + hashlib.sha1(data).hexdigest()}
    for stated in hashes.values():
        path.write_bytes(data)
        content = asset("B02.tif", (64, 64), 10, **{"file:checksum": stated})
        write(tmp_path / "item.json", item(assets={"blue": content}, **{BASE: "05.09"}))
        product = only(card(bands=("B02",)), tmp_path)
        assert len(product.checksum()) == 64
        for place in rng.integers(0, len(data), 10):
            flipped = bytearray(data)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(bytes(flipped))
            with pytest.raises(UserError, match=r"B02.tif to have the sha"):
                product.checksum()


def test_the_checksum_tells_content_and_statements_not_places(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(1001, 9000, (64, 64), dtype=np.uint16)

    def checksum(name: str, values: np.ndarray, **properties: Any) -> str:
        write_cog(tmp_path / name / "B02.tif", values)
        said = item(assets={"blue": asset("B02.tif", (64, 64), 10)}, **{BASE: "05.09", **properties})
        said["links"] = [{"rel": "self", "href": f"https://example.org/{name}"}]
        write(tmp_path / name / "item.json", said)
        return only(card(bands=("B02",)), tmp_path / name).checksum()

    one = checksum("one", values)
    assert checksum("two", values) == one
    assert checksum("three", values + 1) != one
    assert checksum("four", values, **{"earthsearch:boa_offset_applied": True}) != one


def test_damaged_documents_stay_in_the_list_and_the_rest_is_read(
    tile: tuple[Path, dict[str, Any], dict[str, np.ndarray]],
) -> None:
    root, _, _ = tile
    damaged = {
        "a": "{",
        "b": '{"type": "Feature", "id": "b"}',
        "c": "[1]",
        "d": '{"type": "Feature", "id": NaN}',
        "e": None,
    }
    for name, text in damaged.items():
        if text is not None:
            (root / "2023" / f"{name}.json").write_text(text)
    links = [{"rel": "item", "href": f"{name}.json"} for name in (*damaged, "tile/item", "tile/item")]
    links += [{"rel": "child", "href": "collection.json"}, {"rel": "item", "href": "s3://bucket/item.json"}]
    write(root / "2023" / "collection.json", {"type": "Collection", "id": "y", "links": links})
    found = {product.product_id: product for product in list_products(card("catalog.json"), root).products}
    assert len(found) == 7
    assert np.isfinite(found.pop("stac_set/sentinel-2-l2a/S2A_32TPS_20230601_0_L2A").open()["image"].values).any()
    for name, product in found.items():
        for use in (product.open, product.checksum):
            with pytest.raises(UserError, match=r"^expected .*; "):
                use()
        assert name.startswith("stac_set/2023/")


def test_products_come_by_date_whatever_the_order_of_links(tmp_path: Path) -> None:
    for number, order in enumerate(([0, 1, 2, 3], [3, 1, 0, 2])):
        folder = tmp_path / str(number)
        for day in order:
            said = item(f"S2A_{9 - day}", **{BASE: "05.09"})
            said["properties"]["datetime"] = f"2023-06-0{day + 1}T10:16:11Z"
            write(folder / f"{day}.json", said)
        write(
            folder / "c.json", {"type": "Catalog", "links": [{"rel": "item", "href": f"{day}.json"} for day in order]}
        )
        taken = list_products(card("c.json", limit=2), folder).products
        assert {product.acquisition.datetime[:10] for product in taken} == {"2023-06-01", "2023-06-02"}
        assert {product.product_id[-1] for product in taken} == {"9", "8"}


@pytest.mark.parametrize(
    ("content", "says"), [("{}", "got None"), ("[]", "got a list"), ("{", "got: "), (None, "No such file")]
)
def test_a_catalogue_that_is_none_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / "item.json").write_text(content)
    with pytest.raises(UserError, match=says):
        list_products(card(), tmp_path)


def test_filters_that_leave_nothing_are_said(tile: tuple[Path, dict[str, Any], dict[str, np.ndarray]]) -> None:
    with pytest.raises(UserError, match=r"expected items that pass the filters"):
        list_products(card("catalog.json", collections=("sentinel-2-c1-l2a",)), tile[0])


def test_items_of_any_nonsense_are_refused_in_words_or_read(tmp_path: Path, rng: np.random.Generator) -> None:
    """One value anywhere in the item is replaced by one of another kind; nothing but a UserError may come out."""
    assets, _ = scene(tmp_path, rng, size=96)
    for content in assets.values():
        content.update(
            {"eo:bands": [{"name": "x", "common_name": "y"}], "file:size": 100, "gsd": 10, "file:checksum": None}
        )
    uri = "S2A_MSIL2A_20230601T101601_N0509_R065_T32TPS_20230601T150000"
    whole = item(
        assets=assets, **{BASE: "05.09", "s2:product_uri": uri, "view:sun_elevation": 30.0, "eo:cloud_cover": 3.0}
    )
    places = list(_places(whole))
    nonsense: list[Any] = [
        None,
        5,
        -1,
        "x",
        "",
        [],
        {},
        [1],
        [None],
        [[1]],
        {"a": 1},
        1e308,
        True,
        "\ud800",
        [{}],
        [{"name": 5, "scale": 0, "offset": "x", "nodata": []}],
        [{"scale": 0, "offset": -0.1}],
        [{"scale": "nan"}],
    ]
    known = card(
        "items.json", bbox=(10.0, 45.0, 11.0, 47.0), datetime="2023-06-01", query={"eo:cloud_cover": {"lt": 20}}
    )
    refused = 0
    for _ in range(150):
        said = copy.deepcopy(whole)
        *way, last = places[rng.integers(len(places))]
        place: Any = said
        for key in way:
            place = place[key]
        place[last] = nonsense[rng.integers(len(nonsense))]
        write(tmp_path / "items.json", {"type": "FeatureCollection", "features": [said]})
        try:
            for product in list_products(known, tmp_path, accept_unknown_offset="drop").products:
                assert product.nbytes >= 0
                product.checksum()
                _ = product.open(plausible=False)["image"][:, :8, :8].values
        except UserError as error:
            assert str(error).startswith("expected ")
            refused += 1
    assert refused > 30


def _places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*way, key)
        yield from _places(inner, (*way, key))


# --------------------------------------------------------------------------------------------------------------------------- radar


def radar(**changes: Any) -> Card:
    return card(bands=("VV", "VH"), sensor="sentinel1_rtc", quantity=Quantity.GAMMA0, resampling={}, **changes)


def _radar_item(folder: Path, power: dict[str, np.ndarray], *, name: str = "S1A_IW_GRDH_rtc", **more: Any) -> None:
    """As Planetary Computer writes it: the projection on the item, -32768 where nothing was measured."""
    bands = {"raster:bands": [{"nodata": -32768, "data_type": "float32", "spatial_resolution": 10.0, **more}]}
    assets = {}
    for key, values in power.items():
        write_cog(folder / f"iw-{key}.rtc.tiff", values, nodata=None)
        assets[key] = {"href": f"iw-{key}.rtc.tiff", "roles": ["data"], **bands}
    properties = {
        "platform": "SENTINEL-1A",
        "sat:orbit_state": "ascending",
        "sar:instrument_mode": "IW",
        "proj:shape": [64, 64],
        "proj:transform": [10.0, 0.0, 600000.0, 0.0, -10.0, 5100000.0, 0.0, 0.0, 1.0],
    }
    write(folder / "item.json", {**item(name, assets=assets, **properties), "collection": "sentinel-1-rtc"})


def test_planetary_computer_radar_is_linear_gamma0(tmp_path: Path, rng: np.random.Generator) -> None:
    power = {name: rng.gamma(4, mean / 4, (64, 64)).astype(np.float32) for name, mean in (("vv", 0.1), ("vh", 0.02))}
    for values in power.values():
        values[:5] = -32768
        values[10, 10] = 0.0  # a measurement
    _radar_item(tmp_path, power)
    product = only(radar(), tmp_path)
    ds = product.open()
    assert (ds.attrs["orbit"], ds.attrs["mode"], ds.attrs["quantity"]) == ("ascending", "IW", "gamma0")
    for name, values in power.items():
        expected = np.where(values == -32768, np.nan, values)
        np.testing.assert_array_equal(ds["image"].sel(band=name.upper()).values, expected)
    assert "cloud" not in ds


def test_radar_in_db_or_scaled_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    decibel = rng.normal(-12, 2, (64, 64)).astype(np.float32)
    _radar_item(tmp_path / "db", {"vv": decibel, "vh": decibel - 6}, name="S1A_db_rtc")
    with pytest.raises(UserError, match=r"expected gamma0 between"):
        only(radar(), tmp_path / "db").open()
    power = np.full((64, 64), 0.1, dtype=np.float32)
    _radar_item(tmp_path / "scaled", {"vv": power, "vh": power}, scale=0.001)
    with pytest.raises(UserError, match=r"expected linear gamma0 without scale"):
        only(radar(), tmp_path / "scaled").open()
    _radar_item(tmp_path / "one", {"vv": power})
    with pytest.raises(UserError, match=r"expected an asset of VH in item S1A_IW_GRDH_rtc, got vv"):
        only(radar(), tmp_path / "one").open()


def test_signing_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "planetary_computer", None)
    assert access.sign_link("/a/file.tif", sign="planetary_computer") == "/a/file.tif"
    with pytest.raises(UserError, match=r"pip install 'eo_ssl.planetary-computer"):
        access.sign_link("https://example.org/file.tif", sign="planetary_computer")
