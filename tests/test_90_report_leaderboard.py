"""A leaderboard says all that its numbers rest on: notes, sizes, seeds, the quantity, and who is not separable from the best."""

from __future__ import annotations

import base64
import csv
import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eo_ssl.evaluation.encoder_candidates import TrainedCandidate
from eo_ssl.evaluation.features import Computing
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.evaluation.spatial_leakage import note_spatial_leakage
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.studies import VariantGrid, expand_study
from eo_ssl.reporting.leaderboard import format_csv, format_markdown, render_leaderboard, render_leaderboard_page
from eo_ssl.reporting.study_figures import draw_studies
from planted import contract, planted, vit

BESIDE = "100 % of the test tiles have a training tile beside them: this split says little of other places"
RUN = "one pretraining run: its spread over seeds is not in the interval"
Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A grid of an encoder beside encoders without weights, on a task whose test tiles all touch training tiles."""
    rng = np.random.default_rng(3)
    task = planted(rng, 80)
    place = np.stack([np.arange(80) % 40, np.arange(80) // 40], axis=1) * 0.01
    task = note_spatial_leakage(replace(task, places=np.concatenate([place, place + 0.01], axis=1)))
    ours = vit()
    one = TrainedCandidate("ours", ours)
    compared = expand_study((one,), task, "grid", grid=VariantGrid.of([16, 24], ["contract", "zscore"], None), seed=0)
    settings = Settings.of(["knn5", "linear"], shots=[10, 2, 0], draws=2, seed=0)
    folder = tmp_path_factory.mktemp("leaderboard")
    return judge(task, (*compared, *load_candidates(["imagestats", "rcf"])), settings, folder, computing=Computing())


def tables(text: str) -> list[list[list[str]]]:
    """Cells of each Markdown table, head first."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    lines = [
        [line.strip("|").split("|") for line in block.splitlines() if not line.startswith("|---")] for block in blocks
    ]
    return [[[cell.strip() for cell in line] for line in block] for block in lines]


def test_what_the_console_warns_of_stands_in_every_format(found: Found) -> None:
    # The note on neighbouring tiles was printed, and in none of the three files.
    rows, comparisons = found
    for text in (format_markdown(rows, comparisons), render_leaderboard_page(rows, comparisons)):
        assert text.count(BESIDE) == 1 and text.count(RUN) == 1  # not once per row
        for words in ("seed 0", "40 test items in 40 blocks", "40 training samples", "toa_reflectance"):
            assert words in text
        assert "95% bootstrap (2000 replicates) over 2 draws of training samples and 40 blocks" in text
    for line in csv.DictReader(format_csv(rows, comparisons).splitlines()):
        assert BESIDE in line["notes"] and line["interval"] and line["n_train"] and line["seed"] == "0"
        assert line["pooling"] == ("mean" if line["encoder"].startswith("ours") else "")
        assert line["input_px"] == ("24" if "24 px" in line["encoder"] else "16")


def test_footnotes_belong_to_their_encoders(found: Found) -> None:
    text = format_markdown(*found)
    notes = dict(re.findall(r"^\[(\d+)\] (.*)$", text, re.M))
    cited = {row[0] for table in tables(text) if table[0][0] == "encoder" for row in table[1:]}
    assert {name.split(" [")[0]: notes[name.split(" [")[1].strip("]")] for name in cited} == {
        "ours": RUN,
        "imagestats": "normalised by the training images",
        "rcf": "one draw of random weights (seed 0), normalised by the training images",
    }
    web = render_leaderboard_page(*found)
    for number, note in notes.items():
        assert f'<li id="note-{number}">{html.escape(note)}</li>' in web and f'href="#note-{number}"' in web


def test_the_verdict_is_the_one_against_the_best(found: Found) -> None:
    rows, comparisons = found
    by_place = {}
    for one in comparisons:
        by_place[one["protocol"], one["amount"], frozenset((one["a"], one["b"]))] = one["p_holm"] < 0.05
    seen = set()
    for line in csv.DictReader(format_csv(rows, comparisons).splitlines()):
        if " | " in line["encoder"]:
            assert line["against_best"] == ""
            continue
        place = line["protocol"], line["amount"]
        values = {
            r["encoder"]: r["value"] for r in rows if (r["protocol"], r["amount"]) == place and not r["reference"]
        }
        if line["against_best"] == "best":
            assert values[line["encoder"]] == max(values.values())
            best = line["encoder"]  # comes first
            continue
        worse = by_place[*place, frozenset((best, line["encoder"]))]
        assert line["against_best"] == ("worse" if worse else "not separable")
        seen.add(line["against_best"])
    assert seen == {"worse", "not separable"}


def test_tables_stand_in_the_order_of_their_amounts(found: Found) -> None:
    titles = re.findall(r"^### planted, (.*)$", format_markdown(*found), re.M)
    amounts = ["2 per class", "10 per class", "all"]
    assert titles == [f"{name}, training samples: {amount}" for name in ("knn5", "linear") for amount in amounts]


def test_no_loss_of_minus_nothing(found: Found) -> None:
    rows, comparisons = found
    tiny = [one | {"difference": -1e-4, "low": -3e-4, "high": 2e-4} for one in comparisons]
    assert "-0.0" not in format_markdown(rows, tiny) and "+0.0 (+0.0 to +0.0)" in format_markdown(rows, tiny)


def test_equal_inputs_share_a_line(found: Found) -> None:
    rows, comparisons = found
    grids = [table for table in tables(format_markdown(rows, comparisons)) if table[0][0] == "size"]
    for grid in grids:
        assert [line[:3] for line in grid[1:]] == [
            ["contract's = 16 px", "contract", "contract"],
            ["contract's = 16 px", "contract", "zscore"],
            ["24 px", "contract", "contract"],
            ["24 px", "contract", "zscore"],
        ]
    assert len(grids) == 6 and len(format_csv(rows, comparisons).splitlines()) == 1 + len(rows)


def test_ways_to_one_input_that_are_no_product_are_all_named(found: Found) -> None:
    rows, comparisons = found
    odd = [dict(row) for row in rows if row["protocol"] == "knn5" and row["amount"] == "all"]
    shared = {"ours", "ours | 24 px, zscore"}
    for row in odd:
        row["inputs"] = "same" if row["encoder"] in shared else row["encoder"]
    text = format_markdown(odd, [c for c in comparisons if c["protocol"] == "knn5" and c["amount"] == "all"])
    assert "| contract's | contract | contract = (24 px, contract, zscore) |" in text


def test_figures_lie_beside_and_inside(found: Found, tmp_path: Path) -> None:
    rows, comparisons = found
    made, drawn = render_leaderboard(rows, comparisons), draw_studies(rows, comparisons)
    assert len(drawn) == 6 and {f"{one.name}.svg" for one in drawn} == {name for name in made if name.endswith(".svg")}
    web = made["leaderboard.html"].decode()
    inside = [base64.b64decode(data) for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", web)]
    assert inside == [one.svg for one in drawn] == [made[f"{one.name}.svg"] for one in drawn]
    assert all(f'alt="{html.escape(one.alt)}"' in web for one in drawn) and "http" not in web.split("<body>")[0]
    plain = [row for row in rows if not row["reference"]]
    assert set(render_leaderboard(plain, comparisons)) == {"leaderboard.md", "leaderboard.html", "leaderboard.csv"}
    assert b"<figure>" not in render_leaderboard(plain, comparisons)["leaderboard.html"]


def test_both_studies_of_an_encoder_share_a_folder(rng: np.random.Generator, tmp_path: Path) -> None:
    task, free = planted(rng, 40), load_candidates(["imagestats"])
    settings = Settings.of(["knn5"], shots=[0], draws=1, seed=0)
    for study in ("grid", "robustness"):
        compared = expand_study(free, task, study, grid=VariantGrid.of([24], ["contract"], None), seed=0)  # type: ignore[arg-type]
        rows, comparisons = judge(task, compared, settings, tmp_path, computing=Computing(cache=tmp_path / "f"))
    made = render_leaderboard(rows, comparisons)
    assert {name for name in made if name.endswith(".svg")} == {"grid.svg", "robustness.svg"}
    plain, grid, lost = tables(made["leaderboard.md"].decode())
    assert (len(plain), grid[-1][:3], lost[1][0]) == (2, ["24 px", "contract", "contract"], "untouched")
    assert sum(line[0].count("=") + 1 for line in lost[1:]) + 1 == len(rows)


def test_the_side_that_an_encoder_is_given(rng: np.random.Generator) -> None:
    small, wide, ours = planted(rng, 40), planted(rng, 40, size=24), vit()
    whole = np.arange(80)
    mixed = replace(
        small,
        sources=(*small.sources, *wide.sources),
        labels=whole % 2,
        blocks=whole,
        folds=(Fold(whole[:40], whole[40:], whole[:0]),),
    )
    resized = TrainedCandidate("ours", ours)
    native = replace(resized, trained=ours.with_preprocessing(contract(resize="native")))
    sides = [one.describe(task).input_px for one in (resized, native) for task in (small, wide, mixed)]
    assert sides == [16, 16, 16, 16, 24, None]
