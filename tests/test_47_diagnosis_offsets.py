"""The radiometric offset: each piece of evidence by hand, then the real files whose state was established one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eo_ssl.cards import load_card
from eo_ssl.diagnosis import Finding, Sample, examine_products
from eo_ssl.diagnosis.examination import collect_offsets
from eo_ssl.diagnosis.offsets import (
    check_offset,
    count_parities,
    extract_traces,
    score_cirrus,
    score_darkness,
    score_metadata,
    score_parity,
)
from eo_ssl.diagnosis.sampled_windows import list_products
from eo_ssl.sensors import Quantity

L1C_WITH = {"282D_485L_3_3.tif", "433D_629L_3_1.tif", "609U_541L_3_0.tif"}
L1C_WITHOUT = {"38D_378R_2_3.tif", "637U_59R_1_3.tif"}
S2_100K_WITH = {f"patch_{number}.tif" for number in (445, 8845, 74721, 252161, 57755, 75123, 766272)}
S2_100K_OPEN = {"patch_70541.tif", "patch_770287.tif"}


def offsets(findings: list[Finding]) -> Finding:
    return next(finding for finding in findings if finding.kind == "offset")


def surface(codes: np.ndarray, **changes: object) -> Sample:
    window = (codes * 1e-4).astype(np.float32)
    sample = Sample(
        "set/a", "sentinel2_l2a", Quantity.BOA_REFLECTANCE, ("B02",), (window,), scale=1e-4, listed_as="a.tif"
    )
    return replace(sample, **changes)


def stepped(codes: np.ndarray) -> np.ndarray:
    """Codes as a processor with steps of 2 above 1024 writes them."""
    return np.where(codes > 1024, codes // 2 * 2, codes)


def test_cirrus_follows_its_published_law() -> None:
    left_in, taken = score_cirrus(1010.0)[1:]
    law = lambda code: -0.5 * ((math.log(code) - math.log(8.7)) / 1.36) ** 2 - math.log(code)  # noqa: E731
    assert left_in == pytest.approx(law(10) - law(1010))
    assert left_in > 10 and taken < 0
    assert score_cirrus(10.0)[1] < -20 and score_cirrus(-990.0)[2] > 20


def test_dark_pixels_forbid_an_offset_but_their_absence_proves_none() -> None:
    assert score_darkness(300.0)[1] < -10  # with 1000 left in the truth would be -700
    assert 0 <= score_darkness(1010.0)[1] <= 2.2  # may be a bright scene
    assert score_darkness(-990.0)[2] <= 2.2 and score_darkness(-990.0)[0] == 0
    assert score_darkness(5000.0)[1] == pytest.approx(0.0, abs=0.01)


def test_the_largest_odd_code_tells_the_offset(rng: np.random.Generator) -> None:
    codes = stepped(rng.integers(300, 6000, (1, 120, 120)))
    without, with_ = count_parities(surface(codes)), count_parities(surface(codes + 1000))
    assert without is not None and with_ is not None and without.stepped and with_.stepped
    assert score_parity(without, set_share=None)[1] < -10
    assert score_parity(with_, set_share=None)[1] > 10
    other = count_parities(surface(rng.integers(300, 6000, (1, 120, 120))))  # a processor without steps
    assert other is not None and other.stepped is False and not score_parity(other, set_share=None).any()
    assert count_parities(surface(codes + 0.4)) is None  # resampled


def test_the_set_bears_witness_for_a_product_without_bright_codes(rng: np.random.Generator) -> None:
    dark = count_parities(surface(rng.integers(1001, 1500, (1, 60, 60))))
    assert dark is not None and dark.stepped is None
    alone, among_stepped, among_others = (score_parity(dark, set_share=share)[1] for share in (None, 0.98, 0.02))
    assert among_others < 0.1 < alone < 1.0 < 1.5 < among_stepped


def test_metadata_of_a_baseline_forbid_or_suggest_an_offset() -> None:
    plain = surface(np.zeros((1, 4, 4)))
    assert score_metadata(replace(plain, baseline="02.14"))[1] == -8
    assert score_metadata(replace(plain, baseline="N0509"))[1] == 2
    assert score_metadata(replace(plain, baseline="0301", offset=-1000.0))[2] == 8
    assert score_metadata(plain)[1] == 0


def test_the_remedy_is_in_stored_units_of_the_card(rng: np.random.Generator) -> None:
    codes = stepped(rng.integers(100, 6000, (1, 120, 120)))
    missing = extract_traces(surface(codes + 1000))
    needless = extract_traces(surface(codes - 1000, offset=-1000.0))
    assert missing is not None and needless is not None
    assert check_offset(missing).remedy == {"offset_by_file": {"a.tif": -1000.0}}
    assert check_offset(needless).remedy == {"offset_by_file": {"a.tif": 0.0}}
    assert check_offset(missing).outcome == check_offset(needless).outcome == "wrong"


def test_snow_everywhere_is_no_evidence(rng: np.random.Generator) -> None:
    found = extract_traces(surface(rng.integers(3500, 4500, (1, 120, 120)) * 2))  # all even, all bright
    assert found is not None and check_offset(found).outcome == "cannot tell"
    assert "no dark pixel" in check_offset(found).sentence


def undeclared(name: str, real_data: Path, offset: float = 0.0) -> dict[str, Finding]:
    """Offset findings by file when the card of ``name`` declares one offset for all."""
    card = replace(load_card(name), offset_by_file={}, offset=offset)
    return {
        f"{item.product_id.split('/')[-1]}.tif": offsets(list(item.findings))
        for item in examine_products(list_products(card, real_data))
    }


def test_the_mixed_offsets_of_terramesh_are_found(real_data: Path) -> None:
    found = undeclared("terramesh_s2l1c", real_data)
    assert {name for name, finding in found.items() if finding.outcome == "wrong"} == L1C_WITH
    assert {name for name, finding in found.items() if finding.outcome == "fine"} == L1C_WITHOUT
    surface_level = undeclared("terramesh_s2l2a", real_data)
    assert {name for name, finding in surface_level.items() if finding.outcome == "wrong"} == {"433D_629L_3_1.tif"}
    assert {finding.outcome for finding in surface_level.values()} == {"wrong", "fine"}


def test_offsets_declared_for_all_are_found_where_they_are_not(real_data: Path) -> None:
    found = undeclared("terramesh_s2l1c", real_data, offset=-1000.0)
    assert {name for name, finding in found.items() if finding.outcome == "wrong"} == L1C_WITHOUT


def test_the_offsets_of_s2_100k_are_found_and_two_are_open(real_data: Path) -> None:
    found = undeclared("s2_100k", real_data)
    assert {name for name, finding in found.items() if finding.outcome == "wrong"} == S2_100K_WITH
    assert {name for name, finding in found.items() if finding.outcome == "cannot tell"} == S2_100K_OPEN
    assert len(found) == 23


def test_a_file_that_the_card_does_not_list_gets_its_line(real_data: Path) -> None:
    card = load_card("terramesh_s2l1c")
    known = dict(card.offset_by_file)
    del known["282D_485L_3_3.tif"]
    examined = examine_products(list_products(replace(card, offset_by_file=known), real_data))
    assert next(item.outcome for item in examined) == "suspect"
    paths = {f"terramesh_examples/S2L1C/{name}": offset for name, offset in card.offset_by_file.items()}
    assert collect_offsets(examined) == paths
