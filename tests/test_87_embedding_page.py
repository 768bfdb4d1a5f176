"""The page of neighbours in a real headless browser: no error, no request, nothing wider than the screen; tiles open, the table sorts."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from embeddings import SIDE, save_vit
from eo_ssl.corpus import IngestConfig, ingest
from eo_ssl.workflows.embed import main as embed
from eo_ssl.workflows.search import main as search
from fake_scenes import FakeProduct, card
from test_90_report_browser import CHROMIUM, browse

WIDTHS_PX = (320, 1280)
_AUDIT = """<script>
window.audit = {errors: []};
addEventListener("error", (e) => audit.errors.push(String(e.message || e)), true);
addEventListener("load", async () => {
  const all = (s) => [...document.querySelectorAll(s)];
  await Promise.all(all("img").map((i) => i.decode().catch((e) => audit.errors.push(i.alt + ": " + e))));
  audit.scroll = document.documentElement.scrollWidth;
  audit.images = all(".tiles img").filter((i) => i.naturalWidth > 1).length;
  audit.requests = performance.getEntriesByType("resource").map((r) => r.name).filter((n) => !n.startsWith("data:"));
  document.querySelector(".tiles button").click();
  audit.opened = document.querySelector("dialog").open;
  document.querySelector("dialog").close();
  const table = document.querySelector("table.sortable");
  table.tHead.rows[0].cells[1].querySelector("button").click();
  audit.sorted = [...table.tBodies[0].rows].map((r) => Number(r.cells[1].dataset.value));
  audit.hacked = window.hacked || 0;
  parent.postMessage({width: Number(new URLSearchParams(location.search).get("w")), audit}, "*");
});
</script>"""
_FRAMES = """<!doctype html><body><script>
const seen = {}; addEventListener("message", (e) => { seen[e.data.width] = e.data.audit;
 if (Object.keys(seen).length === document.querySelectorAll("iframe").length) document.body.dataset.seen = JSON.stringify(seen); });
</script>%s</body>"""


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("EO_SSL_REQUIRE_BROWSER"), reason="no chromium here")
def test_the_page_works_on_a_phone_and_on_a_desk(rng: np.random.Generator, tmp_path: Path) -> None:
    hostile = FakeProduct(
        "fake/<img src=x onerror=window.hacked=1>",
        card(labels=None),
        rng.uniform(0, 0.4, (3, 64, 64)).astype(np.float32),
    )
    ingest([hostile], out=tmp_path / "corpus", config=IngestConfig(size_px=SIDE, min_valid=0.0), client="synchronous")
    embed(str(save_vit(tmp_path / "vit")), str(tmp_path / "corpus"), tmp_path / "e")
    search(tmp_path / "e", like="3", k=9, out=tmp_path / "page")
    page = (tmp_path / "page" / "index.html").read_text()
    (tmp_path / "index.html").write_text(page.replace("<head>", "<head>" + _AUDIT, 1))
    frames = "".join(
        f'<iframe src="index.html?w={width}" style="width:{width}px;height:1200px;border:0"></iframe>'
        for width in WIDTHS_PX
    )
    (tmp_path / "frames.html").write_text(_FRAMES % frames)
    dom, log = browse(tmp_path / "frames.html", tmp_path)
    found = re.search(r'data-seen="([^"]*)"', dom)
    assert found, f"the page never finished loading: {log[-2000:]}"
    audits = {int(width): audit for width, audit in json.loads(html.unescape(found[1])).items()}
    assert set(audits) == set(WIDTHS_PX)
    for width, audit in audits.items():
        assert audit["scroll"] <= width
        assert (audit["errors"], audit["requests"], audit["hacked"]) == ([], [], 0)
        assert (audit["images"], audit["opened"]) == (10, True)
        assert audit["sorted"] == sorted(audit["sorted"], reverse=True) and len(set(audit["sorted"])) > 3
