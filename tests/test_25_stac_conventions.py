"""What items say: the radiometric offset in every combination, names of assets, filters, and which processing is taken."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalogues import COG, card, item, write
from eo_ssl.cards import list_cards, load_card
from eo_ssl.errors import UserError
from eo_ssl.scene import list_products
from eo_ssl.scene.stac import assets
from eo_ssl.scene.stac.conventions import (
    check_card,
    decide_offset_dn,
    decide_radiometry,
    read_acquisition,
    read_baseline,
)
from eo_ssl.scene.stac.item_filters import ListedItem, keep_newest, match_item
from eo_ssl.sensors import Quantity

V1, V0 = "earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"
BASE, BASE_V0 = "s2:processing_baseline", "sentinel:processing_baseline"
STATED = {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}
ZERO = {"raster:bands": [{"scale": 0.0001, "offset": 0}]}


@pytest.mark.parametrize(
    ("properties", "asset", "expected"),
    [
        # (a) the catalogue says it removed the offset: none, whatever else is said
        ({V1: True, BASE: "05.09"}, STATED, 0.0),
        ({V1: True, BASE: "05.09"}, {}, 0.0),
        ({V1: True, BASE: "02.14"}, STATED, 0.0),
        ({V1: True}, STATED, 0.0),
        ({V0: True, BASE_V0: "04.00"}, {}, 0.0),
        # (b) not removed, or not said, since 04.00: the stated one once, else -1000
        ({V1: False, BASE: "05.09"}, STATED, -1000.0),
        ({V1: False, BASE: "05.09"}, ZERO, -1000.0),
        ({V1: False, BASE: "04.00"}, {}, -1000.0),
        ({BASE: "04.00"}, {}, -1000.0),
        ({BASE: "05.11"}, STATED, -1000.0),
        ({BASE: "05.11"}, {"raster:bands": [{"scale": 0.0001, "offset": -0.05}]}, -500.0),
        ({BASE: "05.11"}, {"raster:bands": [{"scale": 0.001, "offset": -0.1}]}, -100.0),
        ({BASE: "05.11"}, {"raster:scale": 0.0001, "raster:offset": -0.2}, -2000.0),
        ({V0: False, BASE_V0: "04.00"}, {}, -1000.0),
        ({"processing:version": "05.11"}, {}, -1000.0),
        ({"s2:product_uri": "S2B_MSIL2A_20220630T101559_N0400_R065_T32TPS_20220630T150000.SAFE"}, {}, -1000.0),
        ({V1: "true", BASE: "05.09"}, {}, -1000.0),  # a text is no flag
        # (c) before 04.00: none, whatever else is said
        ({V1: False, BASE: "02.14"}, ZERO, 0.0),
        ({V1: False, BASE: "03.01"}, STATED, 0.0),
        ({BASE: "02.08"}, STATED, 0.0),
        ({"sentinel:product_id": "S2A_MSIL2A_20190629T104631_N0212_R051_T31UFU_20190629T170417"}, {}, 0.0),
        # (d) no baseline: unknown
        ({V1: False}, STATED, None),
        ({}, STATED, None),
        ({}, {}, None),
        ({BASE: "unknown"}, {}, None),
        # (e) a user's own processing: the baseline tells nothing, a stated offset does
        ({BASE: "99.99"}, {}, None),
        ({V1: True, BASE: "99.99"}, {}, 0.0),
    ],
)
def test_offset_precedence(properties: dict[str, Any], asset: dict[str, Any], expected: float | None) -> None:
    said = item(**properties)
    assert decide_offset_dn(said, asset) == expected
    assert read_acquisition(card(), said).offset == (
        None if expected is None else 0.0
    )  # what is left to apply is inside the source
    if expected is None:
        with pytest.raises(UserError, match=r"expected a processing baseline in item S2A_32TPS"):
            decide_radiometry(card(), said, asset, file_nodata=0)
        return
    scale = asset.get("raster:bands", [{"scale": 1e-4}])[0]["scale"]
    values = decide_radiometry(card(), said, asset, file_nodata=None).physical(
        np.array([[0, 1234, 65535]], dtype=np.uint16)
    )
    np.testing.assert_allclose(values, [[np.nan, (1234 + expected) * scale, np.nan]], rtol=1e-6)


@pytest.mark.parametrize(
    ("stated", "spelled"),
    [("02.14", "02.14"), ("5.9", "05.90"), ("4.0", "04.00"), (4.0, "04.00"), (None, ""), ("N0400", "")],
)
def test_baselines_have_one_spelling(stated: object, spelled: str) -> None:
    assert read_baseline(item(**{BASE: stated})) == spelled


def test_an_item_without_baseline_is_refused_or_dropped_by_choice(tmp_path: Path) -> None:
    known = item("S2A_known", **{BASE: "05.09"})
    write(tmp_path / "items.json", {"type": "FeatureCollection", "features": [item("S2A_unknown"), known]})
    with pytest.raises(UserError, match=r"processing baseline in stac_set/sentinel-2-l2a/S2A_unknown"):
        list_products(card("items.json"), tmp_path)
    found = list_products(card("items.json"), tmp_path, accept_unknown_offset="drop")
    assert [product.product_id for product in found.products] == ["stac_set/sentinel-2-l2a/S2A_known"]
    assert found.dropped == (
        ("stac_set/sentinel-2-l2a/S2A_unknown", "radiometric offset unknown: no processing baseline"),
    )


def test_facts_of_an_earth_search_item() -> None:
    uri = "S2C_MSIL2A_20250302T095029_N0511_R079_T33UXP_20250302T104753.SAFE"
    more = {"view:sun_elevation": 31.5, "view:sun_azimuth": 158.0, "view:incidence_angle": 6.5, "view:azimuth": 104.0}
    found = read_acquisition(card(), item(**{BASE: "05.11", "s2:product_uri": uri, "platform": "sentinel-2c", **more}))
    assert (found.datetime, found.processing_baseline, found.platform) == ("2023-06-01T10:16:11Z", "05.11", "S2C")
    assert (found.relative_orbit, found.sun_zenith_deg, found.sun_azimuth_deg) == (79, 58.5, 158.0)
    assert (found.view_zenith_deg, found.view_azimuth_deg, found.incidence_deg) == (6.5, 104.0, None)


def test_facts_of_a_planetary_computer_radar_item() -> None:
    radar = card(bands=("VV", "VH"), sensor="sentinel1_rtc", quantity=Quantity.GAMMA0)
    said = item(
        "S1A_IW_GRDH_1SDV_20230601T053500_20230601T053525_048700_05DB60_rtc",
        **{
            "platform": "SENTINEL-1A",
            "sat:orbit_state": "descending",
            "sat:relative_orbit": 168,
            "sar:instrument_mode": "IW",
        },
    )
    found = read_acquisition(radar, said)
    assert (found.platform, found.orbit, found.relative_orbit, found.mode) == ("S1A", "descending", 168, "IW")
    assert (found.offset, found.processing_baseline, found.sun_zenith_deg) == (0.0, "", None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"quantity": Quantity.DN}, "expected the quantity boa_reflectance"),
        ({"scale": 1e-4}, "to leave scale to its STAC items"),
        ({"offset": -1000.0, "orbit": "ascending"}, "to leave offset, orbit to"),
        ({"sensor": "sentinel1_rtc", "bands": ("VV",), "quantity": Quantity.GAMMA0_DB}, "expected the quantity gamma0"),
        (
            {"sensor": "sentinel1_grd", "bands": ("VV",), "quantity": Quantity.SIGMA0},
            "expected a STAC card of sentinel2_l2a",
        ),
    ],
)
def test_cards_that_contradict_the_items_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_card(card(**change))


def test_shipped_stac_cards_fit_the_reader() -> None:
    cards = [known for known in map(load_card, list_cards()) if known.reader == "stac"]
    assert len(cards) == 3
    for known in cards:
        check_card(known)


def test_items_of_another_level_are_refused() -> None:
    for properties in (
        {"s2:product_type": "S2MSI1C"},
        {"s2:product_uri": "S2A_MSIL1C_20230601T101601_N0509_R065_T32TPS_20230601T122000"},
    ):
        with pytest.raises(UserError, match=r"expected S2MSI2A in item .* got S2MSI1C"):
            decide_radiometry(card(), item(**{BASE: "05.09"}, **properties), {}, file_nodata=0)


# --------------------------------------------------------------------------------------------------------------- names of assets


def _assets(**keys: dict[str, Any]) -> dict[str, Any]:
    return {
        key.replace("__", "-"): {"href": f"/data/{key}.tif", "type": COG, **content} for key, content in keys.items()
    }


JP2 = {"type": "image/jp2"}
EARTH_SEARCH = _assets(
    blue={},
    blue__jp2=JP2,
    coastal={},
    coastal__jp2=JP2,
    rededge1={},
    nir={},
    nir08={},
    nir09={},
    swir16={},
    scl={},
    scl__jp2=JP2,
    visual={"eo:bands": [{"name": "red"}, {"name": "green"}, {"name": "blue"}]},
    thumbnail={"roles": ["thumbnail"]},
    aot={},
    wvp={},
)
PLANETARY = _assets(B01={}, B02={}, B05={}, B08={}, B8A={}, B09={}, B11={}, SCL={}, AOT={}, preview={}, visual={})
WANTED = {
    "B01": "coastal",
    "B02": "blue",
    "B05": "rededge1",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B11": "swir16",
}


def test_names_of_both_catalogues_resolve() -> None:
    for band, name in WANTED.items():
        assert assets.find_asset(card(), item(assets=EARTH_SEARCH), "/c.json", band=band).place == f"/data/{name}.tif"
        assert assets.find_asset(card(), item(assets=PLANETARY), "/c.json", band=band).place == f"/data/{band}.tif"
    for known, name in ((EARTH_SEARCH, "scl"), (PLANETARY, "SCL")):
        found = assets.find_scene_classes(card(), item(assets=known), "/c.json")
        assert found is not None
        assert found.place == f"/data/{name}.tif"


def test_odd_keys_resolve_by_their_description_and_the_key_goes_first() -> None:
    odd = _assets(
        image_a={"eo:bands": [{"name": "B8A", "common_name": "nir08"}]},
        image_b={"bands": [{"eo:common_name": "swir22"}]},
        both={"eo:bands": [{"name": "B02"}, {"name": "B03"}]},
        B04={"eo:bands": [{"common_name": "swir22"}]},
        small={"roles": ["overview"], "eo:bands": [{"name": "B11"}]},
        B07_20m={"gsd": 20},
        B07_60m={"gsd": 60},
    )
    places = {
        band: assets.find_asset(card(), item(assets=odd), "/c.json", band=band).place
        for band in ("B8A", "B12", "B04", "B07")
    }
    assert places == {
        "B8A": "/data/image_a.tif",
        "B12": "/data/image_b.tif",
        "B04": "/data/B04.tif",
        "B07": "/data/B07_20m.tif",
    }
    for band in ("B02", "B11"):
        with pytest.raises(UserError, match=f"expected an asset of {band}"):
            assets.find_asset(card(), item(assets=odd), "/c.json", band=band)


def test_a_key_and_a_name_that_contradict_each_other_are_refused() -> None:
    """Nothing tells which of the two is wrong; a common name is shared by bands and says nothing against a key."""
    swapped = _assets(blue={"eo:bands": [{"name": "B04"}]}, red={"bands": [{"name": "B04", "eo:common_name": "red"}]})
    with pytest.raises(UserError, match=r"expected the asset blue of item .* to hold B02, .* names B04"):
        assets.find_asset(card(), item(assets=swapped), "/c.json", band="B02")
    assert assets.find_asset(card(), item(assets=swapped), "/c.json", band="B04").place == "/data/red.tif"


def test_assets_that_nothing_tells_apart_are_refused() -> None:
    with pytest.raises(UserError, match=r"expected one asset of B02 .* got B02, blue alike"):
        assets.find_asset(card(), item(assets=_assets(blue={}, B02={})), "/c.json", band="B02")


@pytest.mark.parametrize(
    ("href", "base"),
    [
        ("s3://bucket/B02.tif", "/c.json"),
        ("/etc/passwd", ""),
        ("file:///etc/passwd", "https://example.org/c.json"),
        ("B02.tif", ""),
        ("ftp://example.org/B02.tif", "/c.json"),
    ],
)
def test_places_this_reader_does_not_go_to(href: str, base: str) -> None:
    with pytest.raises(UserError, match=r"expected a file or an http"):
        assets.find_asset(card(), item(assets={"blue": {"href": href}}), base, band="B02")


def test_relative_links_start_at_the_document() -> None:
    said = item(assets={"blue": {"href": "../files/B02.tif"}})
    assert (
        assets.find_asset(card(), said, "https://example.org/a/b.json", band="B02").place
        == "https://example.org/files/B02.tif"
    )
    assert assets.find_asset(card(), said, "/a/b/c.json", band="B02").place == "/a/files/B02.tif"


# --------------------------------------------------------------------------------------------------- filters and newest processing


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        ({"collections": ("sentinel-2-l2a",)}, True),
        ({"collections": ("sentinel-2-l1c",)}, False),
        ({"bbox": (10.3, 46.0, 12.0, 47.0)}, True),
        ({"bbox": (10.5, 46.0, 12.0, 47.0)}, False),
        ({"bbox": (170.0, 40.0, 10.3, 47.0)}, True),  # over 180 degrees
        ({"bbox": (170.0, 40.0, -170.0, 47.0)}, False),
        ({"datetime": "2023-06-01"}, True),
        ({"datetime": "2023-05-01/2023-06-01"}, True),  # the whole last day
        ({"datetime": "2023-06-01T10:16:12Z/.."}, False),
        ({"datetime": "../2023-06-01T10:16:12Z"}, True),
        ({"query": {"eo:cloud_cover": {"lt": 20}}}, True),
        ({"query": {"eo:cloud_cover": {"gte": 5, "lt": 10}}}, False),
        ({"query": {"platform": {"eq": "sentinel-2a"}}}, True),
        ({"query": {"platform": {"startsWith": "sentinel-1"}}}, False),
        ({"query": {"platform": {"lt": 3}}}, False),
        ({"query": {"absent": {"neq": 1}}}, False),
    ],
)
def test_filters(wanted: dict[str, Any], passes: bool) -> None:
    stac = card(**wanted).stac
    assert stac is not None
    assert match_item(item(**{"eo:cloud_cover": 12.5}), stac) is passes


@pytest.mark.parametrize("wanted", [{"query": {"platform": {"like": "x"}}}, {"datetime": "June 2023"}])
def test_malformed_filters_are_refused(wanted: dict[str, Any]) -> None:
    stac = card(**wanted).stac
    assert stac is not None
    with pytest.raises(UserError, match=r"expected an"):
        match_item(item(), stac)


def _processed(
    name: str, baseline: str, made: str, *, strip: str = "20230601T101610", tile: str = "32TPS"
) -> ListedItem:
    compact = baseline.replace(".", "")
    said = {
        BASE: baseline,
        "s2:product_uri": f"S2A_MSIL2A_20230601T101601_N{compact}_R065_T{tile}_{made}.SAFE",
        "s2:datastrip_id": f"S2A_OPER_MSI_L2A_DS_2APS_{made}_S{strip}_N{baseline}",
    }
    return ListedItem(item(name, **said), "")


def test_the_newest_processing_of_each_sensing_stays_and_the_rest_is_reported(rng: np.random.Generator) -> None:
    old, late = _processed("old", "02.12", "20230601T150000"), _processed("late", "02.12", "20230901T000000")
    new = _processed("new", "05.10", "20240301T000000")
    again = _processed("again", "05.10", "20240501T000000")
    other_half = _processed("half", "05.10", "20240301T000000", strip="20230601T101725")
    other_tile = _processed("tile", "02.12", "20230601T150000", tile="32TPT")
    everything = [old, late, new, again, other_half, other_tile, copy.deepcopy(again)]
    outcomes = set()
    for _ in range(5):
        kept, dropped = keep_newest([everything[i] for i in rng.permutation(len(everything))])
        outcomes.add((tuple(one.item["id"] for one in kept), tuple(sorted(dropped))))
    assert outcomes == {
        (
            ("again", "half", "tile"),
            (
                ("sentinel-2-l2a/again", "listed twice"),
                (
                    "sentinel-2-l2a/late",
                    "processing baseline 02.12 of a sensing that sentinel-2-l2a/again has in 05.10",
                ),
                (
                    "sentinel-2-l2a/new",
                    "generated 20240301T000000, and sentinel-2-l2a/again of the same sensing and baseline 20240501T000000",
                ),
                ("sentinel-2-l2a/old", "processing baseline 02.12 of a sensing that sentinel-2-l2a/again has in 05.10"),
            ),
        )
    }


@pytest.mark.parametrize(
    ("text", "name", "digest"),
    [
        ("1220" + "ab" * 32, "sha256", "ab" * 32),
        ("1114" + "cd" * 20, "sha1", "cd" * 20),
        ("d50110" + "ef" * 16, "md5", "ef" * 16),
    ],
)
def test_multihashes(text: str, name: str, digest: str) -> None:
    assert assets.parse_multihash(text, place="x") == (name, digest)


@pytest.mark.parametrize("text", ["", "zz", "12", "1220ab", "b220" + "00" * 32, "ff" * 9])
def test_what_is_no_multihash_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected a multihash"):
        assets.parse_multihash(text, place="x")
