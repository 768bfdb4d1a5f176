"""The plan of an ingest: a value that prints, pickles and is run as it is; each product is opened once, however many parts it is cut in."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from eo_ssl.corpus import Corpus, IngestConfig, ingest, plan_ingest, run_plan
from eo_ssl.errors import UserError
from fake_scenes import FakeProduct, card, reflectance, scenes

CONFIG = IngestConfig(size_px=16, edge="pad", min_valid=0.0)
STREAM = "s2_boa_b02b03b04_10m_16px"


@dataclasses.dataclass(frozen=True, eq=False)
class Counted(FakeProduct):
    """Leaves a file for every time it is opened, in whatever process."""

    marks: Path = Path()

    def open(self):
        with (self.marks / self.product_id.replace("/", "_")).open("ab") as file:
            file.write(b".")
        return super().open()


@pytest.fixture
def products(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> list[Counted]:
    """Two products, the second of many parts."""
    monkeypatch.setattr("eo_ssl.corpus.shards.MAX_TILES", 5)
    monkeypatch.setattr("eo_ssl.corpus.cutting.REGION_BYTES", 4 * 3 * 32 * 100)
    (tmp_path / "marks").mkdir()
    large = FakeProduct("fake/big", card(), reflectance(rng, height=200, width=220), blocks=(32, 64))
    plain = [*scenes(rng, 1), large]
    values = [{field.name: getattr(item, field.name) for field in dataclasses.fields(item)} for item in plain]
    return [Counted(**value, marks=tmp_path / "marks") for value in values]


def opens(tmp_path: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (tmp_path / "marks").iterdir()}


@pytest.mark.parametrize("client", ["synchronous", "threads", "processes"])
def test_a_product_is_opened_once_and_not_once_per_part(products, tmp_path: Path, client: str) -> None:
    """Every part used to open its product and plan it anew: here 1 + 8 times in place of once."""
    plan = plan_ingest(
        products, config=CONFIG, client="synchronous"
    )  # small shards and regions are set in this process
    assert [part.tasks for part in plan.plans][1] >= 6
    report = run_plan(plan, out=tmp_path / "c", client=client)
    assert report.added == 2 and opens(tmp_path) == {"fake_0": 1, "fake_big": 1}
    assert Corpus.open(tmp_path / "c").verify() == []


def test_a_sample_of_a_dry_run_opens_nothing_again(products, tmp_path: Path) -> None:
    plan = plan_ingest(products, config=CONFIG, client="synchronous", sample=True)
    assert plan.estimate is not None and opens(tmp_path) == {"fake_0": 1, "fake_big": 1}


def test_a_plan_that_was_printed_and_pickled_makes_the_same_corpus(products, tmp_path: Path) -> None:
    expected = ingest(products, out=tmp_path / "whole", config=CONFIG, client="synchronous")
    plan = plan_ingest(products, config=CONFIG, client="synchronous", sample=True)
    again = pickle.loads(pickle.dumps(plan))
    assert str(again) == str(plan) and again.inputs == plan.inputs and again.settings == plan.settings
    before = opens(tmp_path)
    report = run_plan(again, out=tmp_path / "c", client="synchronous")
    assert opens(tmp_path) == before and report.fingerprint == expected.fingerprint
    assert run_plan(plan, out=tmp_path / "c", client="synchronous").state == "done"


def test_a_plan_says_product_by_product_what_will_be_made(products, rng: np.random.Generator) -> None:
    bad = dataclasses.replace(scenes(rng, 1)[0], product_id="fake/bad", error="user")
    plan = plan_ingest([*products, bad], config=CONFIG, client="synchronous")
    head, first, second, third = str(plan).splitlines()
    assert head == "3 products, 198 tiles, 0.6 MB in; 1 products cannot be read"
    assert first == f"  fake/0: 16 tiles in 2 parts of {STREAM}, native tiling of 64 x 55 px, edge pad"
    assert second.startswith("  fake/big: 182 tiles in ") and f" parts of {STREAM}, native" in second
    assert third == "  fake/bad: put aside, expected the band B8A in fake/bad, got none; fetch it again"
    many = [dataclasses.replace(bad, product_id=f"fake/{number}") for number in range(25)]
    assert str(plan_ingest(many, config=CONFIG, client="synchronous")).splitlines()[-1] == "  ... and 5 more products"


def test_a_plan_is_as_small_for_many_tiles_as_for_few(rng: np.random.Generator) -> None:
    """It travels to every task of its product, and the plans of an archive are held together."""
    product = scenes(rng, 1)[0]
    large = dataclasses.replace(product, image=np.broadcast_to(np.float32(0.1), (3, 3200, 3200)), layers={})
    small = dataclasses.replace(large, image=np.broadcast_to(np.float32(0.1), (3, 320, 320)))
    for config in (CONFIG, dataclasses.replace(CONFIG, tiling="grid")):
        (much,), (little,) = (plan_ingest([one], config=config, client="synchronous").plans for one in (large, small))
        assert much.tiles > 90 * little.tiles
        sizes = [len(pickle.dumps((one.raster.tiles, one.raster.grid, one.parts, one.sizes))) for one in (much, little)]
        assert max(sizes) < 2000


def test_a_plan_is_refused_where_another_configuration_is(products, tmp_path: Path) -> None:
    ingest(products, out=tmp_path / "c", config=CONFIG, client="synchronous")
    plan = plan_ingest(products, config=dataclasses.replace(CONFIG, min_valid=0.5), client="synchronous")
    with pytest.raises(UserError, match="difference in min_valid"):
        run_plan(plan, out=tmp_path / "c", client="synchronous")
    with pytest.raises(UserError, match="threads, processes, synchronous or an address"):
        run_plan(plan, out=tmp_path / "d", client="thread")
    assert not (tmp_path / "d").exists()
