"""The report: its drawings against planted values and closed forms, its page against its inputs."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eo_ssl.corpus import Corpus, Encoding, Stream
from eo_ssl.corpus.statistics import CodeCounter
from eo_ssl.curation import CurationReport
from eo_ssl.errors import UserError
from eo_ssl.manifest import Clock, finish
from eo_ssl.reporting import band_histograms, collect_report, find_products, formatting, render_report
from eo_ssl.reporting.balance_table import tabulate_balance
from eo_ssl.reporting.charts import Series, choose_log_ticks, choose_ticks, draw_bars, draw_lines, thin
from eo_ssl.reporting.footprints import Footprints, draw_close_up, group_places
from eo_ssl.reporting.formatting import format_degrees, format_tick
from eo_ssl.reporting.galleries import spread_rows
from eo_ssl.reporting.products import read_lines
from eo_ssl.reporting.report_page import SECTIONS
from eo_ssl.reporting.sections import group_scores
from eo_ssl.reporting.svg import render_svg
from eo_ssl.reporting.thumbnails import COLOUR_EXPONENT, SIDE_PX, choose_rendering, encode_picture, render_tile
from eo_ssl.sensors import Quantity
from eo_ssl.workflows.report import main
from report_runs import HOSTILE, HOSTILE_NAME, result_row, shared_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_run(tmp_path_factory)


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


# ---- drawing


def test_svg_text_and_attributes_are_escaped() -> None:
    figure = draw_bars([1.0], ["<b> & $co$"])
    page = render_svg(figure, alt='a" onload="x')
    assert "&lt;b&gt; &amp; $co$</text>" in page and 'aria-label="a&quot; onload=&quot;x"' in page
    assert not re.search(r"<b>|\bid=|xlink|clip", page)


def test_a_drawing_takes_the_colours_of_the_page_and_is_the_same_each_time() -> None:
    line = Series("x", (0.0, 1.0), (1.23456, 2.0), colour=2)
    page, again = (render_svg(draw_lines([line], x_label="a", y_label="b"), alt="x") for _ in range(2))
    assert page == again and "var(--dropped)" in page and "var(--rule)" in page and "#" not in page
    assert not re.search(r"[\d.]*\.\d{3,}", page)  # a hundredth of a pixel is enough


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_round_inside_the_axis_and_few(low: float, span: float, most: int) -> None:
    high = low + span
    ticks = choose_ticks(low, high, most=most)
    step = np.diff(ticks)
    tolerance = 1e-6 * max(abs(low), abs(high), span)
    assert len(ticks) <= most
    assert all(low - tolerance <= t <= high + tolerance for t in ticks)
    assert np.allclose(step, step[:1] if len(step) else step, atol=tolerance)
    if len(step) and span > 1e-3 * abs(low):
        assert float(f"{step[0]:.6e}".split("e")[0]) in (1.0, 2.0, 2.5, 5.0) or ticks == (low, high)


def test_log_ticks_and_labels() -> None:
    assert choose_log_ticks(0.7, 1500.0) == pytest.approx((1.0, 10.0, 100.0, 1000.0))
    assert choose_log_ticks(2.0, 60.0) == pytest.approx((2, 5, 10, 20, 50))
    assert [format_tick(v) for v in (0.0, 0.25, 2.5e-4, -3.0, 12000.0, 2e6)] == [
        "0",
        "0.25",
        "2.5e−4",
        "−3",
        "12k",
        "2M",
    ]


def test_an_axis_is_linear_or_logarithmic_and_never_empty() -> None:
    for log, middle in ((False, 50.5), (True, 10.0)):
        line = Series("x", (0.0, 1.0, 2.0), (1.0, middle, 100.0))
        (axes,) = draw_lines([line], x_label="", y_label="", log_y=log).axes
        low, centre, high = (axes.transData.transform((0, y))[1] for y in line.y)
        assert centre == pytest.approx((low + high) / 2)
    (axes,) = draw_lines([Series("x", (0.0, 1.0), (3.0, 3.0))], x_label="", y_label="").axes
    assert axes.get_ylim()[0] < 3 < axes.get_ylim()[1]
    (axes,) = draw_lines([Series("x", (0.0, 1.0), (3.0, 4.0))], x_label="", y_label="", zero_y=True).axes
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 4


def test_thinning_a_line_keeps_its_mean() -> None:
    y = tuple(float(v) for v in np.random.default_rng(0).normal(size=1200))
    line = thin(Series("x", tuple(map(float, range(1200))), y), most=300)
    assert len(line.y) == 300
    assert np.mean(line.y) == pytest.approx(np.mean(y))


# ---- tiles as pictures


def test_true_colour_finds_bands_by_name_and_keeps_no_data_transparent(rng: np.random.Generator) -> None:
    bands = ["B02", "B03", "B04", "B08"]
    sample = rng.uniform(0.02, 0.3, (6, 4, 32, 32)).astype(np.float32)
    sample[0, 2] = 0.36  # red at the white point
    sample[0, :2] = 0.0
    sample[0, :, :4] = np.nan
    rendering = choose_rendering(sample, bands=bands, sensor_name="sentinel2_l2a", quantity=Quantity.BOA_REFLECTANCE)
    picture = render_tile(sample[0], rendering)
    assert picture[10, 10].tolist() == [255, 0, 0, 255]
    assert (picture[:4, :, 3] == 0).all()
    order = [3, 1, 0, 2]  # any order of channels gives the same picture
    shuffled = choose_rendering(
        sample[:, order],
        bands=[bands[i] for i in order],
        sensor_name="sentinel2_l2a",
        quantity=Quantity.BOA_REFLECTANCE,
    )
    assert np.array_equal(render_tile(sample[0][order], shuffled), picture)
    half = sample[0].copy()
    half[2] = rendering.high[0] / 2
    assert render_tile(half, rendering)[10, 10, 0] == round(255 * 0.5**COLOUR_EXPONENT)


def test_radar_composite_is_drawn_in_decibels_with_stated_range(rng: np.random.Generator) -> None:
    power = 10 ** (rng.uniform(-25, -5, (4, 2, 16, 16)).astype(np.float32) / 10)
    rendering = choose_rendering(power, bands=["VV", "VH"], sensor_name="sentinel1_rtc", quantity=Quantity.GAMMA0)
    middle = [(low + high) / 2 for low, high in zip(rendering.low, rendering.high, strict=True)]
    flat = np.stack(
        [np.full((4, 4), 10 ** (middle[0] / 10)), np.full((4, 4), 10 ** ((middle[0] - middle[2]) / 10))]
    ).astype(np.float32)
    red, _, blue, alpha = render_tile(flat, rendering)[0, 0].tolist()
    assert {red, blue} <= {127, 128} and alpha == 255
    assert "dB" in rendering.words and "VV" in rendering.words


def test_large_tiles_become_small_webp(rng: np.random.Generator) -> None:
    uri = encode_picture(rng.integers(0, 255, (500, 300, 4), dtype=np.uint8))
    picture = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,"))))
    assert picture.format == "WEBP"
    assert max(picture.size) <= SIDE_PX


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 30))
def test_a_gallery_visits_every_product(ids: list[int], most: int) -> None:
    products = np.array(ids, dtype=np.int64)
    rows = spread_rows(products, most)
    shown = [int((products[rows] == name).sum()) for name in sorted(set(products))]
    room = [int((products == name).sum()) for name in sorted(set(products))]
    assert len(rows) == min(most, len(ids))
    assert np.all(np.diff(rows) > 0)
    if most >= len(room):  # fair: nobody has two more than another that still had room
        assert all(shown[a] <= shown[b] + 1 or shown[b] == room[b] for a in range(len(room)) for b in range(len(room)))


def test_band_histogram_holds_every_pixel_of_its_range(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    stream = Stream("sentinel2_l2a", Quantity.BOA_REFLECTANCE, ("B02", "B08"), 10.0, 32)
    values = np.stack([rng.normal(0.1, 0.01, (9, 32, 32)), rng.normal(0.3, 0.02, (9, 32, 32))], axis=1).astype(
        np.float32
    )
    encoding = Encoding.of(stream.quantity, chips=False)
    stored = np.empty(values.shape, np.int16)
    for tile, out in zip(values, stored, strict=True):
        encoding.encode(tile, out)
    counter = CodeCounter(stream, encoding)
    counter.add(stored)
    drawn: list[tuple[list[float], list[float]]] = []
    plain = band_histograms.draw_histogram
    monkeypatch.setattr(
        band_histograms, "draw_histogram", lambda e, c, **look: drawn.append((e, c)) or plain(e, c, **look)
    )
    plots = band_histograms.draw_band_histograms(counter.statistics(baseline="", orbit="")[0], "sentinel2_l2a")
    for channel, (edges, counts) in enumerate(drawn):
        inside = ((values[:, channel] >= edges[0]) & (values[:, channel] <= edges[-1])).sum()
        assert sum(counts) == pytest.approx(inside, rel=0.01)
        peak = edges[int(np.argmax(counts))]
        assert peak == pytest.approx((0.1, 0.3)[channel], abs=0.015)
    assert [plot.words for plot in plots] == ["0.100 ± 0.010", "0.300 ± 0.020"]


# ---- maps


def test_footprints_near_each_other_share_a_close_up() -> None:
    west = np.array([10.0, 10.3, 10.6, -60.0, 11.2])
    south = np.array([45.0, 45.1, 45.0, -3.0, 45.4])
    boxes = Footprints(
        np.stack([west, south, west + 0.05, south + 0.05], axis=1), np.array(["train", "train", "test", "val", "train"])
    )
    groups = group_places(boxes)
    assert [len(group) for group in groups] == [4, 1]
    (axes,) = draw_close_up(groups[0]).axes
    corners = {str(patch.get_label()): list(patch.get_path().codes).count(1) for patch in axes.patches}  # MOVETO
    assert corners == {"train": 3, "test": 1}
    assert [format_degrees(v, "EW") for v in (12.5, -120.0, 0.0)] == ["12.5°E", "120°W", "0°"]


# ---- words


def test_words_do_not_round_something_to_nothing() -> None:
    assert [formatting.format_share(v) for v in (0.0, 0.001, 0.254, 0.999, 1.0)] == [
        "0 %",
        "< 1 %",
        "25 %",
        "> 99 %",
        "100 %",
    ]
    assert [formatting.format_size(v) for v in (999, 1500, 2.5e9)] == ["999 B", "1.5 kB", "2.5 GB"]
    assert [formatting.format_duration(v) for v in (0.44, 59.4, 59.6, 3725)] == [
        "0.4 s",
        "59 s",
        "1 min 00 s",
        "1 h 02 min",
    ]
    assert [formatting.format_number(v) for v in (7, 12345, 0.123456, float("nan"), None)] == [
        "7",
        "12\u202f345",
        "0.123",
        "–",
        "–",
    ]
    assert formatting.format_score(0.7123, "accuracy") == "71.2 %" and formatting.format_score(3.25, "rmse") == "3.25"
    assert [formatting.format_title(v) for v in ("macro_f1", "knn5", "linear")] == ["Macro F1", "kNN-5", "Linear"]


# ---- inputs


def test_products_are_found_by_their_manifests_in_the_order_of_the_flow(run: Path) -> None:
    found = find_products([run])
    assert [(p.stage, p.name) for p in found] == [
        ("ingest", "optical"),
        ("ingest", "radar"),
        ("curate", "subset"),
        ("pretrain", HOSTILE_NAME),
        ("evaluate", "judged"),
        ("export", "bundle"),
        ("embed", "embedded"),
        ("embed", "maps"),
    ]
    assert find_products([run / "radar", run]) == found  # given twice, listed once


def test_inputs_without_a_product_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        find_products([tmp_path / "absent"])
    with pytest.raises(UserError, match="finished product"):
        find_products([tmp_path])


def test_a_log_may_end_in_a_cut_off_line_but_not_hold_one(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"st')
    assert read_lines(log) == [{"step": 1}]
    log.write_text('{"st\n{"step": 1}\n')
    with pytest.raises(UserError, match="line 1"):
        read_lines(log)


# ---- curation and results


def test_better_means_better_than_a_uniform_draw_not_than_everything(run: Path) -> None:
    report = CurationReport.from_json(json.loads((run / "subset" / "curation_report.json").read_text()))
    lines = {line.name: line for line in tabulate_balance(report)}
    entropy = lines["Cluster entropy"]
    assert report.after.cluster_entropy is not None and report.chance.cluster_entropy is not None
    assert (entropy.better == "yes") == (report.after.cluster_entropy > report.chance.cluster_entropy)
    gini = lines["Gini of cluster sizes"]
    assert report.after.cluster_gini is not None and report.chance.cluster_gini is not None
    assert (gini.better == "yes") == (report.after.cluster_gini < report.chance.cluster_gini)
    assert lines["Tiles"].better == ""


def test_results_say_who_wins_and_who_does_not(run: Path) -> None:
    products = find_products([run])
    (task,) = group_scores(
        [p for p in products if p.stage == "evaluate"], [p for p in products if p.stage == "pretrain"]
    )
    assert [g.title for g in task.groups] == [
        "kNN-5 · 1 shot per class",
        "kNN-5 · 5 shots per class",
        "kNN-5 · 20 shots per class",
    ]
    assert [(r.encoder, r.kind) for r in task.groups[2].rows] == [
        ("mae", "ours"),
        ("rcf", "baseline"),
        ("imagestats", "baseline"),
        ("control: chip size only", "control"),
    ]
    assert task.headline == (
        "vehicles, kNN-5 · 20 shots per class: mae 74.0 % [70.0, 78.0]; best baseline rcf 73.0 % [69.0, 77.0]: not separable"
        "; best control: chip size only 20.0 % [16.0, 24.0]"
    )
    assert (task.standings[0].better, task.standings[0].level, task.standings[0].worse) == (
        ("imagestats",),
        ("rcf",),
        (),
    )
    assert "better in 3, worse in 0, not separable in 3" in task.verdict_words
    assert task.notes == (f"chips {HOSTILE}",) and task.remarks == (("mae", "one pretraining run"),)
    assert len(task.figures) == 1  # three numbers of shots make a curve


def test_a_result_without_an_interval_says_so_and_one_without_a_value_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "judged"
    (folder / "rows").mkdir(parents=True)
    (folder / "rows" / "a.json").write_text(json.dumps(result_row("rcf", 0.5, None, low=None, high=None)))
    finish(folder, stage="evaluate", config={}, inputs={}, product="a" * 64, started=Clock())
    page = render_report(collect_report([folder]))
    assert "no interval" in page
    (folder / "rows" / "b.json").write_text(json.dumps({"task": "t", "encoder": "e", "protocol": "p", "metric": "m"}))
    with pytest.raises(UserError, match="field 'value'"):
        collect_report([folder])


# ---- the page


def test_the_page_is_whole_self_contained_and_escaped(run: Path) -> None:
    report = collect_report([run], title=f"A run {HOSTILE}", note=f"Proves the pipeline {HOSTILE}")
    page = render_report(report)
    elements = Elements(page)
    assert len(page.encode()) < 8e6
    assert [a["id"] for a in elements.of("section") + elements.of("header") if a.get("id")].__len__() == len(
        report.sections
    )
    assert {name for name, _ in report.sections} <= {a.get("id") for _, a in elements.found}
    assert page.count(HOSTILE) == 0 and page.count(HOSTILE_NAME) == 0
    assert (
        page.count("&lt;script&gt;window.hacked=1&lt;/script&gt;") >= 6
    )  # title twice, note twice, owners, reason, note of a row
    assert len(elements.of("script")) == 1
    for name, attributes in elements.found:
        for key in ("src", "href", "action", "srcset"):
            assert attributes.get(key) is None or str(attributes[key]).startswith(("#", "data:")), (name, attributes)
    assert not re.search(r"url\(|@import", page)
    pictures = [a for a in elements.of("img") if a.get("alt")]
    assert len(pictures) >= 60
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in elements.of("svg"))
    described = Corpus.open(run / "optical").fingerprint
    assert described in page and "left.tif" in page and "expected 12 bands, got 11" in page
    assert "the readiness gate postponed 1 event" in page
    optical = Corpus.open(run / "optical")
    entropy = optical.index(next(iter(optical.streams)))["spectral_entropy"].to_numpy()
    assert f"{entropy.mean():.3g} nats per tile ({entropy.min():.3g} to {entropy.max():.3g})" in page
    (training,) = report.trainings
    assert [figure.title for figure in training.figures] == [
        *("Loss", "RankMe", "Feature spread", "Uniformity", "Classes of the teacher", "Online kNN"),
        *("Learning rate", "Speed", "Pool", "Term of loss"),  # the last of the objective; its queue never changes
    ]


@pytest.mark.parametrize("part", ["radar", "subset", HOSTILE_NAME, "judged", "bundle", "embedded", "maps"])
def test_any_part_of_the_flow_makes_a_page(run: Path, part: str) -> None:
    page = render_report(collect_report([run / part]))
    ids = {attributes.get("id") for _, attributes in Elements(page).found}
    assert {name for name, _ in SECTIONS} <= ids
    assert page.count("is among the inputs of this report") >= 2  # what is absent is said


def test_the_command_writes_once_and_knows_when_nothing_is_to_do(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    main([run / "judged"], out, title="First")
    first = (out / "index.html").read_bytes()
    assert str(out / "index.html") in capsys.readouterr().out
    assert json.loads((out / "manifest.json").read_text())["inputs"] == {"evaluate judged": "f" * 64}
    main([run / "judged"], out, title="First")
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"config\.title"):
        main([run / "judged"], out, title="Second")
    assert (out / "index.html").read_bytes() == first
    main([run / "judged"], out, title="Second", overwrite=True)
    assert b"<h1>Second</h1>" in (out / "index.html").read_bytes()
