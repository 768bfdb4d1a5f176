"""An S3 mock on loopback (moto), and a proxy that cuts connections after so many bytes.

moto keeps objects in memory and answers as S3 does; its conditional put looks and then writes, so puts are taken one at a time here.
"""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "tiles"


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: object, **__: object) -> None:
        """Print nothing."""


class Mock:
    """The running mock: what was asked of it, and whether it honours conditional puts."""

    def __init__(self) -> None:
        self.conditional = True
        self.requests: list[tuple[str, str, str]] = []
        self._application = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.port = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE", "")))
        if not self.conditional:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if environ["REQUEST_METHOD"] != "PUT":
            return self._application(environ, start_response)
        with self._lock:
            return list(self._application(environ, start_response))

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What a process needs to reach the mock (or the proxy at ``port``)."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def mock_store() -> Iterator[Mock]:
    """Serve an empty bucket while the block runs."""
    mock = Mock()
    server = make_server("127.0.0.1", 0, mock, threaded=True, request_handler=_Quiet)
    server.daemon_threads = True
    mock.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{mock.port}"
    for path, method in (("/moto-api/reset", "POST"), (f"/{BUCKET}", "PUT")):
        urllib.request.urlopen(urllib.request.Request(address + path, data=b"", method=method)).close()
    try:
        yield mock
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class CuttingProxy:
    """Passes bytes on to the mock, until told to cut connections or to go dead."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.after, self.cuts, self.left, self.done = 0, 0, 2**60, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, cuts: int, *, after: int) -> None:
        """Cut the next ``cuts`` connections of which one direction has passed more than ``after`` bytes."""
        self.after, self.cuts, self.done = after, cuts, 0

    def die(self, *, after: int) -> None:
        """Let ``after`` more bytes pass in all, then cut every connection until :meth:`revive`."""
        self.left, self.done = after, 0

    def revive(self) -> None:
        """Pass everything again."""
        self.left, self.cuts = 2**60, 0

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._upstream))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(4096):
                passed += len(data)
                self.left -= len(data)
                if self.left < 0 or (self.done < self.cuts and passed > self.after):
                    self.done += 1
                    break
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
