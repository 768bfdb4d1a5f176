"""The report in a real headless browser: three widths, no error, no request, nothing wider than the screen."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from eo_ssl.reporting import collect_report, render_report
from eo_ssl.reporting.report_page import SECTIONS
from report_runs import HOSTILE, shared_run

WIDTHS_PX = (320, 390, 1280)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

# Runs inside the page before anything else: collects errors, then measures and tries the controls once all is loaded.
_AUDIT = """<script>
window.audit = {errors: [], hacked: 0};
addEventListener("error", (e) => audit.errors.push(String(e.message || (e.target && e.target.outerHTML) || e)), true);
addEventListener("unhandledrejection", (e) => audit.errors.push(String(e.reason)));
const complain = console.error; console.error = (...a) => { audit.errors.push(a.join(" ")); complain(...a); };
addEventListener("load", async () => {
  const all = (s) => [...document.querySelectorAll(s)];
  await Promise.all(all("img").map((i) => i.decode().catch((e) => audit.errors.push(i.alt + ": " + e))));
  audit.inner = innerWidth;
  audit.scroll = document.documentElement.scrollWidth;
  const box = (e) => e.getBoundingClientRect();
  audit.wide = all("body *").filter((e) => box(e).right > innerWidth + 1 && !e.closest(".scroll, .nav, .skip")).map((e) => e.outerHTML.slice(0, 120));
  audit.images = all("img").length;
  audit.empty = all("img").filter((i) => !i.naturalWidth || !i.naturalHeight).length;
  audit.flat = all("svg").filter((s) => !s.closest("details:not([open])") && (box(s).width < 4 || box(s).height < 4)).length;
  audit.sections = all("[id]").map((e) => e.id);
  audit.requests = performance.getEntriesByType("resource").map((r) => r.name).filter((n) => !n.startsWith("data:"));
  audit.hacked = window.hacked || 0;
  const chart = document.querySelector("svg.chart");
  audit.text = parseFloat(getComputedStyle(chart.querySelector("text")).fontSize) * box(chart).width / chart.viewBox.baseVal.width;
  audit.nav = getComputedStyle(document.querySelector(".nav")).position;
  document.querySelector(".tiles button").click();
  audit.opened = document.querySelector("dialog").open && document.querySelector("dialog img").naturalWidth > 1;
  document.querySelector("dialog").close();
  const table = document.querySelector("table.sortable"), column = [...table.tHead.rows[0].cells].findIndex((c) => c.textContent.trim() === "Value");
  table.tHead.rows[0].cells[column].querySelector("button").click();
  audit.sorted = [...table.tBodies[0].rows].map((r) => Number(r.cells[column].dataset.value));
  parent.postMessage({width: Number(new URLSearchParams(location.search).get("w")), audit}, "*");
});
</script>"""

_FRAMES = """<!doctype html><body><script>
const seen = {}; addEventListener("message", (e) => { seen[e.data.width] = e.data.audit;
 if (Object.keys(seen).length === document.querySelectorAll("iframe").length) document.body.dataset.seen = JSON.stringify(seen); });
</script>%s</body>"""


def browse(page: Path, folder: Path) -> tuple[str, str]:
    """The DOM after all scripts ran, and what the browser wrote to its log.

    A browser on a busy machine may be told to end before a frame has told what it saw: it is asked again then.
    """
    assert CHROMIUM is not None
    quiet = ("background-networking", "component-update", "sync", "gpu", "extensions", "dev-shm-usage")
    options = [f"--disable-{name}" for name in quiet]
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--no-first-run",
        "--hide-scrollbars",
        *options,
        "--enable-logging=stderr",
        "--v=0",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,2000",
        "--virtual-time-budget=20000",
        "--dump-dom",
        page.as_uri(),
    ]
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        if "data-seen=" in done.stdout:
            break
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def audits(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, dict[str, Any]], str]:
    """What the page says of itself at each width, and the browser's log."""
    if CHROMIUM is None:
        if os.environ.get("EO_SSL_REQUIRE_BROWSER"):
            pytest.fail("expected chromium where EO_SSL_REQUIRE_BROWSER is set, got none: install it first")
        pytest.skip(
            "no chromium on this machine: install Debian's package chromium to look at the report in a real browser"
        )
    folder = tmp_path_factory.mktemp("browser")
    text = render_report(
        collect_report(
            [shared_run(tmp_path_factory)], title=f"A run {HOSTILE}", note="Proves the pipeline, not the encoder."
        )
    )
    (folder / "index.html").write_text(text.replace("<head>", "<head>" + _AUDIT, 1))
    frames = "".join(
        f'<iframe src="index.html?w={width}" style="width:{width}px;height:1800px;border:0"></iframe>'
        for width in WIDTHS_PX
    )
    (folder / "frames.html").write_text(_FRAMES % frames)
    dom, log = browse(folder / "frames.html", folder)
    found = re.search(r'data-seen="([^"]*)"', dom)
    assert found, f"the page never finished loading: {log[-2000:]}"
    return {int(width): audit for width, audit in json.loads(html.unescape(found[1])).items()}, log


@pytest.mark.parametrize("width", WIDTHS_PX)
def test_nothing_is_wider_than_the_screen(audits: tuple[dict[int, dict[str, Any]], str], width: int) -> None:
    audit = audits[0][width]
    assert audit["inner"] == width
    assert audit["scroll"] <= width, audit["wide"][:5]
    assert not audit["wide"], audit["wide"][:5]


@pytest.mark.parametrize("width", WIDTHS_PX)
def test_no_error_no_request_and_no_planted_script_runs(
    audits: tuple[dict[int, dict[str, Any]], str], width: int
) -> None:
    audit = audits[0][width]
    assert audit["errors"] == []
    assert audit["requests"] == []
    assert audit["hacked"] == 0
    assert not [line for line in audits[1].splitlines() if "CONSOLE" in line], audits[1]


@pytest.mark.parametrize("width", WIDTHS_PX)
def test_pictures_and_drawings_have_size_and_readable_labels(
    audits: tuple[dict[int, dict[str, Any]], str], width: int
) -> None:
    audit = audits[0][width]
    assert audit["images"] >= 60
    assert audit["empty"] == 0
    assert audit["flat"] == 0
    assert audit["text"] >= 9.0  # px on screen
    assert {name for name, _ in SECTIONS} <= set(audit["sections"])
    assert audit["nav"] == "sticky"


def test_a_tile_opens_and_a_table_sorts(audits: tuple[dict[int, dict[str, Any]], str]) -> None:
    for audit in audits[0].values():
        assert audit["opened"] is True
        assert audit["sorted"] == sorted(audit["sorted"], reverse=True)
        assert len(set(audit["sorted"])) > 3
