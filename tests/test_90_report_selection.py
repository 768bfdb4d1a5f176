"""What the report says and draws of a selection, against planted sizes, weights, places and dates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.patches import StepPatch

from eo_ssl.corpus import Stream
from eo_ssl.curation import Context, CurationReport, Density, Hierarchical, Random, Selector, curate, write_subset
from eo_ssl.reporting import quality_histograms
from eo_ssl.reporting.balance_table import tabulate_balance
from eo_ssl.reporting.charts import Series, draw_histogram, draw_lines, make_legend
from eo_ssl.reporting.footprints import BOUNDS, WORLD_PX, Footprints
from eo_ssl.reporting.products import filter_stage, find_products
from eo_ssl.reporting.quality_histograms import FRACTIONS, draw_quality_histograms
from eo_ssl.reporting.sections.prunings import describe_prunings
from eo_ssl.reporting.sections.selections import describe_selection
from eo_ssl.reporting.sections.subsets import describe_subset
from eo_ssl.reporting.selected_tiles import (
    SelectedTiles,
    classify_lift,
    name_classes,
    read_schedule_tiles,
    read_subset_tiles,
)
from eo_ssl.reporting.selection_figures import (
    draw_embedding_chart,
    draw_log_histogram,
    draw_months_chart,
    draw_occupancy,
    draw_occupancy_chart,
    draw_paired_bars,
    draw_spots,
    draw_usage_chart,
    draw_weights_chart,
)
from eo_ssl.reporting.selection_galleries import draw_selection_galleries
from eo_ssl.reporting.selection_maps import (
    LARGEST_PX,
    draw_lifted_close_up,
    draw_lifted_world,
    draw_selection_maps,
    unite_positions,
)
from eo_ssl.sensors import Quantity
from report_runs import shared_run

STREAM = Stream("sentinel2_l2a", Quantity.BOA_REFLECTANCE, ("B02", "B03", "B04"), 10.0, 8)


class Reader:
    """Tiles of one stream that tell nothing."""

    stream = STREAM

    def read(self, rows: np.ndarray) -> np.ndarray:
        return np.full((len(rows), 3, 8, 8), 0.1, dtype=np.float32)


def make_tiles(weights: list[float], **known: object) -> SelectedTiles:
    n = len(weights)
    plain = SelectedTiles(
        rows=np.arange(n),
        weights=np.array(weights, dtype=np.float64),
        clusters=np.zeros(n, dtype=np.int64),
        places=np.full((n, 2), np.nan),
        reasons={},
        left_out={},
    )
    return replace(plain, **known)  # type: ignore[arg-type]


def make_report(n: int = 60, method: Selector | None = None, keep: float = 0.5) -> CurationReport:
    points = np.random.default_rng(0).normal(size=(n, 4))
    return curate(points, keep, np.random.default_rng(0), method=method or Random()).report


# ---- tables


def test_the_tables_of_a_subset_come_back_as_what_became_of_every_tile(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(40, 3))
    points[30:] = points[:10]
    identities = np.r_[np.arange(30), np.arange(10)]
    method = Density(scaling="none")
    selection = curate(points, 0.3, np.random.default_rng(0), method=method, context=Context(identities=identities))
    names = np.arange(40) * 3
    write_subset(tmp_path, selection, names, left_out={"near test": np.array([1, 100])})
    tiles = read_subset_tiles(tmp_path, selection.report)
    assert tiles.rows.tolist() == names.tolist() and tiles.drawn.tolist() == list(range(30)) and tiles.weighed
    np.testing.assert_array_equal(tiles.weights[:30], selection.weights)
    assert not tiles.weights[30:].any() and tiles.lift.mean() == pytest.approx(1)
    assert tiles.lift[:30].mean() == pytest.approx(40 / 30)  # a uniform draw would take copies too
    assert {why: at.tolist() for why, at in tiles.reasons.items()} == {"duplicate": list(range(30, 40))}
    assert {why: rows.tolist() for why, rows in tiles.left_out.items()} == {"near test": [1, 100]}
    np.testing.assert_array_equal(tiles.places, selection.projection.places)
    for name in ("subset", "dropped"):  # as earlier versions wrote them
        table = pq.read_table(tmp_path / f"{name}.parquet")
        pq.write_table(table.drop_columns(["x", "y"]), tmp_path / f"{name}.parquet")
    earlier = read_subset_tiles(tmp_path, selection.report)
    assert np.isnan(earlier.places).all() and earlier.weights.tolist() == tiles.weights.tolist()
    assert draw_embedding_chart(earlier, selection.report) is None
    assert draw_embedding_chart(tiles, selection.report) is not None


def write_event(folder: Path, number: int, weights: list[float], reasons: list[str]) -> None:
    columns = {"row": [4, 5, 7], "cluster": [0, 1, 0], "weight": pa.array(weights, pa.float32()), "reason": reasons}
    pq.write_table(pa.table(columns), folder / f"event_{number:04d}.parquet")


def test_usage_adds_up_over_events_and_tells_who_never_came_up(tmp_path: Path) -> None:
    write_event(tmp_path, 1, [1.5, 0.0, 0.0], ["kept", "not drawn", "not drawn"])
    write_event(tmp_path, 2, [1.0, 1.0, 0.0], ["kept", "kept", "duplicate"])
    events = [replace(make_report(), event=number) for number in (1, 2)]
    found = read_schedule_tiles(tmp_path, events)
    assert found is not None
    tiles, never = found
    assert tiles.weights.tolist() == [2.5, 1.0, 0.0] and never == [2, 1] and tiles.rows.tolist() == [4, 5, 7]
    assert {why: at.tolist() for why, at in tiles.reasons.items()} == {"duplicate": [2]}
    assert read_schedule_tiles(tmp_path, [*events, replace(make_report(), event=3)]) is None
    assert read_schedule_tiles(tmp_path, []) is None


def test_lift_is_told_in_classes_of_a_uniform_draw() -> None:
    lift = np.array([0, 1e-9, 0.49, 0.5, 0.99, 1 - 1e-12, 1, 1.99, 2, 50])
    assert classify_lift(lift).tolist() == [0, 1, 1, 2, 2, 3, 3, 3, 4, 4]
    assert name_classes(np.array([0, 4, 4]), weighed=False) == {0: "left out", 4: "kept"}
    assert name_classes(np.array([0, 1, 4]), weighed=True) == {0: "never", 1: "up to 0.5×", 4: "over 2×"}
    assert not make_tiles([1, 1, 1]).weighed and not make_tiles([0, 0.5, 0.5]).weighed and make_tiles([1, 2]).weighed


# ---- clusters


def test_occupancy_says_what_the_smaller_half_of_the_clusters_gained() -> None:
    sizes = {"cluster_rows": (1, 6, 2, 1), "cluster_kept": (2, 1, 1, 1), "cluster_chance": (0, 3, 1, 1)}
    report = replace(make_report(), **sizes)
    chart = draw_occupancy_chart(report)
    assert chart is not None and chart.legend[2] == ("s2 stroke dotted", "uniform draw")
    assert "The largest holds 60 % of the tiles before and 20 % after" in chart.caption
    assert "the smaller half 20 % before, 60 % after, 20 % in a uniform draw." in chart.caption
    earlier = draw_occupancy_chart(replace(report, cluster_chance=()))
    assert earlier is not None and len(earlier.legend) == 2 and "uniform" not in earlier.caption
    assert draw_occupancy_chart(replace(report, cluster_rows=())) is None
    one = draw_occupancy_chart(replace(report, cluster_rows=(7,), cluster_kept=(3,), cluster_chance=(3,)))
    assert one is not None and "100 % of the tiles before and 100 % after." in one.caption


def read_steps(axes: object) -> list[tuple[list[float], list[float]]]:
    patches = [patch for patch in axes.patches if isinstance(patch, StepPatch)]  # type: ignore[attr-defined]
    return [tuple(part.tolist() for part in patch.get_data()[:2]) for patch in patches]  # type: ignore[misc]


def test_occupancy_is_drawn_in_the_order_given_and_a_long_tail_on_a_logarithmic_axis() -> None:
    before, after = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    (axes,) = draw_occupancy(before, after, None).axes
    ground, line = read_steps(axes)
    assert ground[0] == pytest.approx([60, 30, 10]) and line[0] == pytest.approx([20, 30, 50])
    assert ground[1] == [0.5, 1.5, 2.5, 3.5] and axes.get_yscale() == "linear"
    sizes = np.r_[1000.0, np.full(59, 10.0)]
    even = np.r_[0.0, np.full(59, 1 / 59)]
    (axes,) = draw_occupancy(sizes / sizes.sum(), even, even).axes
    _, dotted, solid = read_steps(axes)
    assert axes.get_yscale() == "log" and len(solid[0]) == 15 and solid[0] == dotted[0]
    assert solid[0][0] == pytest.approx(100 * 3 / 4 / 59)  # of four clusters one is empty
    assert min(solid[0]) >= axes.get_ylim()[0]


def test_the_table_tells_effective_clusters_and_a_coarse_level_only_where_there_is_one() -> None:
    even = replace(make_report().before, cluster_entropy=1.0, top_entropy=1.0)
    report = replace(make_report(), before=even, after=even, chance=even, cluster_rows=(5,) * 7)
    lines = {line.name: line for line in tabulate_balance(report)}
    assert lines["Effective clusters"].after == "7" and "Coarse entropy" not in lines
    assert all(line.words.endswith(".") for line in lines.values())
    coarse = replace(report, after=replace(even, top_entropy=0.5))
    assert {line.name: line.after for line in tabulate_balance(coarse)}["Coarse entropy"] == "0.500"


# ---- weights, usage


def test_weights_are_told_by_kish_and_their_cap() -> None:
    weights = [0.5] * 8 + [1.0] * 4 + [20.0] * 2
    report = replace(make_report(), parameters={"cap": 20.0})
    chart = draw_weights_chart(make_tiles([0.0, *weights]), report)
    assert chart is not None
    effective = round(sum(weights) ** 2 / sum(w * w for w in weights))
    assert "14 tiles weigh between 0.5 and 20 times the mean" in chart.caption
    assert f"as much as {effective} tiles of equal weight" in chart.caption
    assert "The cap of 20 times the mean holds back 2 tiles." in chart.caption and ">cap<" in chart.svg
    below = draw_weights_chart(make_tiles([0.5, 1.5]), report)
    assert below is not None and "holds back no tile." in below.caption and ">cap<" not in below.svg
    assert draw_weights_chart(make_tiles([0, 1, 1, 1]), report) is None


def test_a_logarithmic_histogram_holds_every_value() -> None:
    values = np.random.default_rng(0).lognormal(size=500)
    (axes,) = draw_log_histogram(values, x_label="", marks=[(1.0, "mean"), (40.0, "cap")]).axes
    ((counts, edges),) = read_steps(axes)
    assert sum(counts) == 500 and axes.get_xscale() == "log" and edges[0] < values.min() and edges[-1] > 40
    np.testing.assert_allclose(np.diff(np.log(edges)), np.log(edges[-1] / edges[0]) / 24)
    for alike in (np.ones(3), np.full(2, 7.0)):
        ((counts, _),) = read_steps(draw_log_histogram(alike, x_label="").axes[0])
        assert sum(counts) == len(alike)


def test_usage_of_pools_is_counted_and_that_of_weights_drawn_by_its_logarithm() -> None:
    pools = draw_usage_chart(make_tiles([0, 0, 1, 2, 2, 2]), 2)
    assert [f">{count}<" in pools.svg for count in (2, 1, 3)] == [True] * 3
    assert (
        "added up over 2 events: 2 never (copies among them), none more than 2 times. Below each bar: in how many pools."
        in pools.caption
    )
    weighed = draw_usage_chart(make_tiles([0, 0.5, 2.5]), 3)
    assert (
        "1 never (copies among them), none more than 2.5 times. Those that came up, on average 1.5 times, are drawn."
        in weighed.caption
    )
    assert ">every pass<" in weighed.svg
    many = draw_usage_chart(make_tiles([0, 0, *range(1, 30)]), 30)
    assert "Below each bar" not in many.caption


# ---- maps, months, quality


def test_the_map_of_embeddings_sizes_its_dots_by_how_often_tiles_come_up() -> None:
    report = replace(make_report(), projected_variance=(0.5, 0.25))
    places = np.array([[0, 0], [1, 0], [2, 0], [np.nan, np.nan]], dtype=float)
    chart = draw_embedding_chart(make_tiles([0, 1, 1, 1], places=places), report)
    assert chart is not None and chart.legend == (("spot lift0", "left out"), ("spot lift3", "kept"))
    assert "3 of 4 tiles, at random" in chart.caption and "hold 75 % of the variance" in chart.caption
    assert "component 1 (50 % of the variance)" in chart.svg
    weighed = draw_embedding_chart(make_tiles([0.1, 1, 5, 1], places=places), report)
    assert weighed is not None and [name for _, name in weighed.legend] == ["up to 0.5×", "0.5 to 1×", "over 2×"]
    assert (
        draw_embedding_chart(make_tiles([1, 1, 1, 1], places=places), replace(report, projected_variance=(0.0, 0.0)))
        is None
    )
    (axes,) = draw_spots(places[:3], np.array([0, 4, 4]), x_label="", y_label="").axes
    kept, left_out = axes.lines
    assert kept.get_linewidth() > 3 * left_out.get_linewidth()
    assert np.unique(kept.get_xdata()[~np.isnan(kept.get_xdata())]).tolist() == [1, 2]


def make_footprints(west: list[float], lift: list[float], size: float = 0.1) -> Footprints:
    at = np.array(west, dtype=float)
    bounds = np.stack([at, np.zeros(len(at)), at + size, np.full(len(at), size)], axis=1)
    return Footprints(bounds, np.full(len(at), ""), np.array(lift, dtype=float))


def test_places_are_a_ring_before_and_a_disc_after_by_area() -> None:
    tiles = make_footprints([10, 10, 10, 80], [0, 0, 2, 2])
    charts = draw_selection_maps(tiles)
    assert [chart.title for chart in charts] == ["Where tiles are drawn", "0.05°N 10.05°E", "0.05°N 80.05°E"]
    assert charts[0].legend == (("ring", "all tiles"), ("disc", "as drawn"))
    assert [name for _, name in charts[1].legend] == ["0.5 to 1×"] and "3 tiles at 1 position" in charts[1].caption
    (axes,) = draw_lifted_world([tiles.take(np.arange(3)), tiles.take(np.array([3]))]).axes
    radius = np.array([patch.radius for patch in axes.patches]) * WORLD_PX / 360 / LARGEST_PX
    np.testing.assert_allclose(radius**2, np.array([2, 3, 2, 1]) / 3)  # disc, ring, disc, ring
    assert len(draw_selection_maps(make_footprints([10, 10], [1, 1]))) == 1  # no world of one place
    assert draw_selection_maps(make_footprints([], [])) == ()
    empty = draw_lifted_world([make_footprints([10], [0]), make_footprints([50], [1])])
    assert len(empty.axes[0].patches) == 3  # a ring without a disc


def test_positions_are_as_dark_as_their_tiles_come_up_on_average() -> None:
    spots = unite_positions(make_footprints([0, 0, 0, 1, 2, 2], [0, 0, 6, 0, 1, 0.4], size=0.5))
    assert spots.lift is not None and dict(zip(spots.bounds[:, 0], spots.lift, strict=True)) == {0: 2, 1: 0, 2: 0.7}
    (axes,) = draw_lifted_close_up(spots).axes
    drawn = {patch.get_label(): patch.get_facecolor()[3] for patch in axes.patches}
    assert list(drawn) == ["never", "0.5 to 1×", "over 2×"] and drawn["never"] == 0
    assert drawn["never"] < drawn["0.5 to 1×"] < drawn["over 2×"]


def test_months_stand_side_by_side_and_one_month_is_no_figure() -> None:
    month = np.array([1, 1, 1, 7, 0])
    chart = draw_months_chart(month, np.array([0, 0, 1.5, 1.5, 2]))
    assert chart is not None and "1 tile has no date." in chart.caption
    assert 'aria-label="Months: month 1 75 %, after 50 %; month 7 25 %, after 50 %"' in chart.svg
    assert (
        draw_months_chart(np.array([3, 3]), np.ones(2)) is None
        and draw_months_chart(np.zeros(4, int), np.ones(4)) is None
    )
    (axes,) = draw_paired_bars(np.array([0.75, 0.25]), np.array([0.0, 1.0]), "JF").axes
    boxes = [patch.get_path().vertices.reshape(-1, 5, 2) for patch in axes.patches]
    assert [part[:, :, 1].max(axis=1).tolist() for part in boxes] == [[75, 25], [100]]
    wide, narrow = (np.ptp(part[0, :, 0]) for part in boxes)
    assert narrow < 0.6 * wide  # told apart without colours


def test_quality_is_drawn_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {name: pa.array([None] * 4, pa.float32()) for name in FRACTIONS}
    columns |= {"cloud_fraction": pa.array([0.0, 0.8, 0.4, None], pa.float32())}
    columns |= {"snow_fraction": pa.array([None, None, None, 0.5], pa.float32())}
    drawn: list[tuple[list[float], list[float]]] = []
    monkeypatch.setattr(
        quality_histograms,
        "draw_histogram",
        lambda edges, counts, **look: drawn.append((counts, look["after"])) or draw_histogram(edges, counts, **look),
    )
    cloud, snow = draw_quality_histograms(pa.table(columns), np.array([3.0, 0, 1.0, 0]))
    ((counts, after),) = drawn
    assert [counts[bin_] for bin_ in (0, 8, 16)] == [1, 1, 1] and sum(counts) == 3
    assert [after[bin_] for bin_ in (0, 8, 16)] == pytest.approx([2.25, 0.75, 0])  # as many tiles, drawn by weight
    assert cloud.words == "mean 40.0 %, after 10.0 %; unknown for 25 %"
    assert snow.svg is None and snow.words.startswith("50 % in every tile")  # of those kept nothing is known
    assert draw_quality_histograms(pa.table(columns))[0].words == "mean 40.0 %; unknown for 25 %"
    assert drawn[-1][1] is None


def test_lines_differ_without_colours() -> None:
    lines = [Series("a", (0.0, 1.0), (0.0, 1.0), dash="dashed"), Series("b", (0.0, 1.0), (1.0, 0.0), colour=1)]
    assert make_legend(lines) == (("s0 stroke dashed", "a"), ("s1 stroke solid", "b"))
    assert make_legend([replace(line, dash="solid") for line in lines]) == (("s0 swatch", "a"), ("s1 swatch", "b"))
    (axes,) = draw_lines(lines, x_label="", y_label="").axes
    assert axes.lines[0].get_linestyle() != axes.lines[2].get_linestyle()


# ---- whatever is selected of whatever


def make_index(n: int, *, placed: bool) -> pa.Table:
    columns: dict[str, pa.Array] = {name: pa.array([None] * n, pa.float32()) for name in FRACTIONS}
    for place, name in enumerate(BOUNDS):
        columns[name] = pa.array([place // 2 * 0.1 + i for i in range(n)] if placed else [None] * n, pa.float64())
    return pa.table(columns | {"month": pa.array([i % 12 + 1 if placed else 0 for i in range(n)], pa.int8())})


ALIKE = np.ones((12, 4))
UNLIKE = np.random.default_rng(1).normal(size=(40, 4))


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize(
    ("points", "keep", "method", "clusters"),
    [
        (UNLIKE, 0.5, Random(), 0),
        (UNLIKE, 0.5, Random(), None),
        (UNLIKE, 1.0, Random(), None),
        (UNLIKE, 0.5, Hierarchical(levels=(1,)), None),
        (UNLIKE, 0.4, Density(), None),
        (ALIKE, 0.5, Density(), None),
        (ALIKE, 6, Hierarchical(), None),
        (UNLIKE[:2], 0.5, Density(), None),
        (UNLIKE[:1], 1.0, Random(), None),
        (UNLIKE[:3], 2, Hierarchical(), None),
        (UNLIKE[:, :1], 0.5, Random(), 3),
    ],
)
def test_any_selection_has_a_page(
    tmp_path: Path, points: np.ndarray, keep: float, method: Selector, clusters: int | None, placed: bool
) -> None:
    selection = curate(points, keep, np.random.default_rng(0), method=method, clusters=clusters)
    write_subset(tmp_path, selection, np.arange(len(points)))
    report = CurationReport.from_json(json.loads((tmp_path / "curation_report.json").read_text()))
    tiles = read_subset_tiles(tmp_path, report)
    index = make_index(len(points), placed=placed)
    for events in (0, 1):
        view = describe_selection(report, tiles, Reader(), index, events=events)  # type: ignore[arg-type]
        titles = [figure.title for figure in view.figures]
        assert ("Map of the embeddings" in titles) == (points.size > 4 and points is not ALIKE)
        assert ("Weights" in titles) == (tiles.weighed and not events)
        assert (view.occupancy is None) == (not report.cluster_rows)
        assert bool(view.where) == placed and bool(view.notes) != placed
        assert view.galleries and view.balance
    bare = describe_selection(report, None, None, None)
    assert bare.figures == bare.where == bare.galleries == () and bare.balance == view.balance


def test_galleries_show_both_ends_of_the_weights_and_tiles_say_how_often_they_come_up() -> None:
    weights = [*np.geomspace(0.001, 4, 40), 0.0, 0.0]
    clusters = np.r_[np.zeros(21, dtype=np.int64), np.ones(21, dtype=np.int64)]
    tiles = make_tiles(
        weights, clusters=clusters, reasons={"not drawn": np.array([40, 41])}, left_out={"near test": np.array([50])}
    )
    report = replace(make_report(), examples=(), cluster_rows=(), cluster_kept=())
    galleries, _ = draw_selection_galleries(tiles, report, Reader())  # type: ignore[arg-type]
    assert [gallery.title for gallery in galleries] == [
        *("Drawn most often, 2", "Drawn least often, 2", "Never drawn, 2", "Dropped: near test, 1")
    ]
    most, least, never, _ = galleries
    assert [thumb.detail for thumb in most.thumbs] == [f"row {row}, cluster 1, drawn most often" for row in (38, 39)]
    assert most.thumbs[1].caption == f"{tiles.lift[39]:.2g}× · cluster 1" and least.thumbs[0].caption[:6] == "< 0.01"
    assert "the 5 % at this end" in most.caption and never.thumbs[0].caption == "cluster 1"
    picked = make_tiles([1, 1, 0], reasons={"duplicate": np.array([2])})
    galleries, _ = draw_selection_galleries(picked, report, Reader())  # type: ignore[arg-type]
    assert [gallery.title for gallery in galleries] == ["Kept, 2", "Dropped: duplicate, 1"]


def test_a_schedule_shows_its_tiles_where_items_are_tiles_of_a_corpus_that_is_there(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    products = find_products([shared_run(tmp_path_factory)])
    corpora, (encoder,) = filter_stage(products, "ingest"), filter_stage(products, "pretrain")
    (view,) = describe_prunings([encoder], corpora)
    assert [figure.title for figure in view.figures] == [
        *("Effective tiles", "Cluster entropy", "Gini of cluster sizes", "Turnover", "Never drawn")
    ]
    assert view.selection is not None and view.selection.where and view.selection.galleries
    usage, placed = view.selection.figures
    tables = [pq.read_table(encoder.path / "pruning" / f"event_000{event}.parquet") for event in (2, 3)]  # 1: postponed
    never = int((sum(table["weight"].to_numpy() for table in tables) == 0).sum())
    assert f"over 2 events: {never} never" in usage.caption and placed.title == "Map of the embeddings"
    for other, there in (({"items": "pairs"}, corpora), ({"streams": ["a", "b"]}, corpora), ({}, [])):
        manifest = replace(encoder.manifest, config={**encoder.manifest.config, **other})
        (view,) = describe_prunings([replace(encoder, manifest=manifest)], there)
        assert view.selection is not None and len(view.selection.figures) == 2 and not view.selection.galleries
        assert any("items are tiles of one stream" in note for note in view.notes)


def test_a_subset_shows_its_tiles_where_its_corpus_is_there(tmp_path_factory: pytest.TempPathFactory) -> None:
    products = find_products([shared_run(tmp_path_factory)])
    (subset,) = filter_stage(products, "curate")
    view = describe_subset(subset, filter_stage(products, "ingest"), position=0)
    assert view.selection.where and view.selection.quality and view.selection.galleries and not view.notes
    bare = describe_subset(subset, [], position=0)
    assert bare.notes == ("Its corpus is not among the inputs of this report, hence no pictures.",)
    assert bare.selection.figures == view.selection.figures and not bare.selection.galleries
