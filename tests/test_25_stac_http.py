"""STAC over real HTTP on loopback: bytes counted, failures in words, an API that is searched, links that are signed."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests

from catalogues import asset, card, item, scene, write, write_cog
from eo_ssl.errors import UserError
from eo_ssl.scene import list_products
from eo_ssl.scene.stac import access

BASE = "s2:processing_baseline"


@dataclass
class Server:
    """Files of a folder over HTTP with ranges, and what was asked of it. Paths below /cut/ end in the middle of an answer."""

    root: Path
    url: str = ""
    sent: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    token: str = ""
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    "canned JSON by path"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    state = Server(tmp_path / "www")
    state.root.mkdir()
    counting = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

        def do_POST(self) -> None:
            state.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._send(json.dumps(state.answers[urlsplit(self.path).path]).encode(), 200)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            state.asked.append((self.command, self.path))
            if parts.path in state.answers:
                self._send(json.dumps(state.answers[parts.path]).encode(), 200)
                return
            file = state.root / parts.path.removeprefix("/cut").lstrip("/")
            if not file.is_file() or (state.token and parts.query != state.token):
                self._send(b"no", 403 if file.is_file() else 404)
                return
            data = file.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted is None:
                self._send(data, 200)
                return
            first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            self._send(data[first : last + 1], 206, f"bytes {first}-{last}/{len(data)}")

        def _send(self, data: bytes, status: int, content_range: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "application/json")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{len(data)}"')
            if content_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            if self.command == "HEAD":
                return
            body = data[: len(data) // 2] if self.path.startswith("/cut/") and len(data) > 40_000 else data
            path = urlsplit(self.path).path
            with counting:  # before the client can have the answer
                state.sent[path] = state.sent.get(path, 0) + len(body)
            self.wfile.write(body)
            self.close_connection = len(body) < len(data)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    state.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def test_one_window_moves_a_small_part_of_the_file(server: Server, rng: np.random.Generator) -> None:
    size, window = 2048, (slice(700, 956), slice(1100, 1356))
    values = rng.integers(1001, 9000, (size, size), dtype=np.uint16)
    path = write_cog(server.root / "big" / "B02.tif", values, block=256)
    write(
        server.root / "big" / "item.json", item(assets={"blue": asset("B02.tif", (size, size), 10)}, **{BASE: "05.09"})
    )
    (product,) = list_products(card(f"{server.url}/big/item.json", bands=("B02",)), Path("/nowhere")).products
    assert product.nbytes == path.stat().st_size
    assert len(product.checksum()) == 64
    assert "/big/B02.tif" not in server.sent, "size and tag of a link cost a HEAD only"
    ds = product.open(plausible=False)
    header = server.sent["/big/B02.tif"]
    got = ds["image"].isel(y=window[0], x=window[1]).values[0]
    np.testing.assert_array_equal(got, (values[window].astype(np.float32) - 1000) * np.float32(1e-4))
    moved = server.sent["/big/B02.tif"]
    print(f"file {path.stat().st_size}, header {header}, with one window of 256 x 256 {moved} bytes")
    assert moved < 0.1 * path.stat().st_size
    assert moved >= 4 * 256 * 256, "four blocks of barely compressible numbers were really fetched"


def test_a_whole_item_over_http_is_the_item_on_disk(server: Server, rng: np.random.Generator) -> None:
    assets, _ = scene(server.root / "tile", rng)
    write(server.root / "tile" / "item.json", item(assets=assets, **{BASE: "05.09"}))
    write(server.root / "catalog.json", {"type": "Catalog", "links": [{"rel": "item", "href": "tile/item.json"}]})
    (far,) = list_products(card(f"{server.url}/catalog.json"), Path("/nowhere")).products
    (near,) = list_products(card("catalog.json"), server.root).products
    assert far.product_id == near.product_id
    assert far.open()["image"].values.tobytes() == near.open()["image"].values.tobytes()
    listed = [path for _, path in server.asked if path.endswith((".aux.xml", ".ovr", ".msk", "/tile/"))]
    assert not listed, "no neighbours of a link are looked for"


@pytest.mark.parametrize(("folder", "says"), [("gone", "404"), ("cut", "expected")])
def test_failures_of_the_network_are_said_in_words(
    server: Server, rng: np.random.Generator, folder: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(access.GDAL_OPTIONS, "GDAL_HTTP_MAX_RETRY", "0")
    write_cog(server.root / "B02.tif", rng.integers(1001, 9000, (512, 512), dtype=np.uint16), block=256)
    said = item(assets={"blue": asset(f"{server.url}/{folder}/B02.tif", (512, 512), 10)}, **{BASE: "05.09"})
    write(server.root / "item.json", said)
    (product,) = list_products(card(f"{server.url}/item.json", bands=("B02",)), Path("/nowhere")).products
    begun = time.monotonic()
    with pytest.raises(UserError, match=rf"{says}.*; it is absent, unreachable or damaged"):
        _ = product.open()["image"].values
    assert time.monotonic() - begun < 30, "bounded, not hanging"
    if folder == "gone":
        with pytest.raises(UserError, match=r"expected size and tag of .*404"):
            product.checksum()


def test_a_server_that_is_not_there_is_said_in_words() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=r"expected a STAC document in .*; correct the link"):
        list_products(card(f"{url}/item.json"), Path("/nowhere"))


def test_links_are_signed_when_read_and_never_kept(
    server: Server, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    planetary_computer = pytest.importorskip(
        "planetary_computer", reason="the extra planetary-computer is not installed"
    )
    monkeypatch.setattr(planetary_computer, "sign_url", lambda url: f"{url}?sig=1")
    values = rng.integers(1001, 9000, (256, 256), dtype=np.uint16)
    write_cog(server.root / "signed" / "B02.tif", values)
    said = item(assets={"B02": asset(f"{server.url}/signed/B02.tif", (256, 256), 10)}, **{BASE: "04.00"})
    write(server.root.parent / "items.json", {"type": "FeatureCollection", "features": [said]})
    server.token = "sig=1"
    (product,) = list_products(
        card("items.json", bands=("B02",), sign="planetary_computer"), server.root.parent
    ).products
    np.testing.assert_allclose(product.open()["image"].values[0], (values - 1000.0) / 10000, rtol=1e-5)
    product.checksum()
    assert "sig=1" not in repr(product)
    (unsigned,) = list_products(card("items.json", bands=("B02",)), server.root.parent).products
    with pytest.raises(UserError, match=r"403"):
        unsigned.checksum()


# ----------------------------------------------------------------------------------------------------------------------------- APIs


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A STAC API by rustac (in-memory) with four items, one of them an older processing of another."""
    program = Path(sys.executable).parent / "rustac"
    if not program.is_file():
        pytest.skip("no rustac beside this Python: install the extra dev")
    items = []
    for name, day, baseline, cover in (
        ("S2A_c", "2023-06-03", "05.09", 5.0),
        ("S2A_a", "2023-06-01", "05.09", 50.0),
        ("S2A_b_old", "2023-06-02", "02.14", 5.0),
        ("S2A_b", "2023-06-02", "05.10", 5.0),
    ):
        uri = f"S2A_MSIL2A_{day.replace('-', '')}T101601_N{baseline.replace('.', '')}_R065_T32TPS_{day.replace('-', '')}T150000"
        said = item(name, **{BASE: baseline, "eo:cloud_cover": cover, "s2:product_uri": uri})
        said["properties"]["datetime"] = f"{day}T10:16:11Z"
        items.append(said)
    file = write(tmp_path_factory.mktemp("api") / "items.json", {"type": "FeatureCollection", "features": items})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [program, "serve", "--addr", address, "--create-collections", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            try:
                requests.get(f"http://{address}/", timeout=1).raise_for_status()
                break
            except requests.RequestException:
                if process.poll() is not None:
                    pytest.skip(f"rustac serve ended with {process.returncode}")
                time.sleep(0.1)
        else:
            pytest.skip("rustac serve did not answer within 10 s")
        yield f"http://{address}/"
    finally:
        process.terminate()
        process.wait(timeout=10)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["S2A_a", "S2A_b", "S2A_c"]),
        ({"collections": ("sentinel-2-l2a",)}, ["S2A_a", "S2A_b", "S2A_c"]),
        ({"limit": 2}, ["S2A_a", "S2A_b"]),
        ({"datetime": "2023-06-02/.."}, ["S2A_b", "S2A_c"]),
        ({"query": {"eo:cloud_cover": {"lt": 20}}}, ["S2A_b", "S2A_c"]),
        ({"bbox": (10.3, 46.0, 10.31, 46.01), "datetime": "2023-06-03"}, ["S2A_c"]),
    ],
)
def test_an_api_is_searched(api: str, filters: dict[str, Any], expected: list[str]) -> None:
    found = list_products(card(api, **filters), Path("/nowhere"))
    assert [product.product_id for product in found.products] == [
        f"stac_set/sentinel-2-l2a/{name}" for name in expected
    ]
    older = "processing baseline 02.14 of a sensing that sentinel-2-l2a/S2A_b has in 05.10"
    assert found.dropped == ((("stac_set/sentinel-2-l2a/S2A_b_old", older),) if "S2A_b" in expected else ())


def test_an_api_that_finds_nothing_says_so(api: str) -> None:
    with pytest.raises(UserError, match=r"expected items that pass the filters"):
        list_products(card(api, bbox=(50.0, 0.0, 51.0, 1.0)), Path("/nowhere"))


def test_what_an_api_is_asked_and_that_its_answer_is_filtered_again(server: Server) -> None:
    """An API that sorts and queries is asked to; this one then answers with what nobody asked for."""
    core = "https://api.stacspec.org/v1.0.0"
    conforms = [f"{core}/core", *(f"{core}/item-search{part}" for part in ("", "#sort", "#query"))]
    search = {"rel": "search", "href": f"{server.url}/api/search", "type": "application/geo+json", "method": "POST"}
    root = {"rel": "root", "href": f"{server.url}/api", "type": "application/json"}
    server.answers["/api"] = {
        "type": "Catalog",
        "id": "api",
        "stac_version": "1.0.0",
        "description": "d",
        "conformsTo": conforms,
        "links": [root, search],
    }
    clear, cloudy = (item(f"S2A_{cover}", **{BASE: "05.09", "eo:cloud_cover": cover}) for cover in (10, 90))
    server.answers["/api/search"] = {"type": "FeatureCollection", "features": [cloudy, clear], "links": []}
    wanted = card(f"{server.url}/api", query={"eo:cloud_cover": {"lt": 20}}, datetime="2023-06-01", limit=5)
    found = list_products(wanted, Path("/nowhere"))
    assert [product.product_id for product in found.products] == ["stac_set/sentinel-2-l2a/S2A_10"]
    (body,) = server.bodies
    assert body["query"] == {"eo:cloud_cover": {"lt": 20}}
    assert body["sortby"] == [{"field": "properties.datetime", "direction": "asc"}, {"field": "id", "direction": "asc"}]
    assert body["datetime"] == "2023-06-01T00:00:00Z/2023-06-01T23:59:59Z"
