"""The dashboard, served: the page at /, /healthz, and /metrics for Prometheus; reads, and nothing else.

It keeps nothing but what it read last and the page of that, for `FRESH` seconds, so that many who look don't ask MLflow
as often.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from matchmaking.base.errors import MlopsError
from matchmaking.base.escape import for_html, for_terminal
from matchmaking.base.redact import redact
from matchmaking.reporting.dashboard.gauges import TYPE, exposition
from matchmaking.reporting.dashboard.page import dashboard_page
from matchmaking.reporting.dashboard.records import Records

FRESH = 30.0
# a browser that was led here by another's name for this address is sent away; as the Service is called in a cluster
HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "dashboard", "dashboard.legalaid-mlops"})
# seconds that a client may take for a request
PATIENCE = 30


@dataclass
class Made:
    """What was read at one time, and what is made of it: the gauges, and once somebody has asked the page, packed."""

    at: float
    records: Records
    gauges: bytes
    page: bytes = b""


class Maker:
    """Reads when somebody asks and what was read last is old; one at a time."""

    def __init__(self, read: Callable[[], Records]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._last: Made | None = None

    def gauges(self) -> bytes:
        """The gauges of now.

        Raises:
            MlopsError: MLflow or production can't be reached.
        """
        with self._lock:
            return self._now().gauges

    def page(self) -> bytes:
        """The page of now, packed.

        Raises:
            MlopsError: MLflow or production can't be reached.
        """
        with self._lock:
            made = self._now()
            if not made.page:
                made.page = gzip.compress(dashboard_page(made.records, served=True).encode(), compresslevel=5)
            return made.page

    def _now(self) -> Made:
        if self._last is None or time.monotonic() - self._last.at > FRESH:
            # two of them aren't held at once
            self._last = None
            began = time.monotonic()
            records = self._read()
            self._last = Made(time.monotonic(), records, exposition(records, time.monotonic() - began))
        return self._last


def make_server(read: Callable[[], Records], host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens, and serves once `serve_forever` is called.

    Args:
        read: gives what is known.
        host: the address to listen on.
        port: 0 for a free one.

    Raises:
        OSError: it can't listen there.
    """
    maker = Maker(read)

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "dashboard", ""
        protocol_version = "HTTP/1.1"
        timeout = PATIENCE

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            try:
                if path == "/healthz":
                    self._answer(200, "text/plain; charset=utf-8", b"ok\n")
                elif path == "/metrics":
                    self._answer(200, TYPE, maker.gauges())
                elif path != "/":
                    self._answer(404, "text/plain; charset=utf-8", b"not found\n")
                elif not self._known():
                    self._answer(403, "text/plain; charset=utf-8", b"this dashboard isn't served under that name\n")
                else:
                    self._page(maker.page())
            except MlopsError as error:
                self._cannot(503, redact(str(error)))
            except (ConnectionError, TimeoutError):
                # the client is gone
                raise
            except Exception as error:
                # an answer, whatever it is, so that who looks knows
                self._cannot(500, redact(f"{type(error).__name__}: {error}"))

        def _cannot(self, status: int, said: str) -> None:
            print(for_terminal(said), flush=True)
            text = f"<!doctype html><title>Dashboard</title><p>The dashboard can't be made now: {for_html(said)}"
            self._answer(status, "text/html; charset=utf-8", text.encode())

        do_HEAD = do_GET

        def _known(self) -> bool:
            name = self.headers.get("Host", "").rsplit("@")[-1]
            host = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
            return host in HOSTS or host.startswith("dashboard.legalaid-mlops.svc")

        def _page(self, packed: bytes) -> None:
            if "gzip" in self.headers.get("Accept-Encoding", ""):
                self._answer(200, "text/html; charset=utf-8", packed, encoding="gzip")
            else:
                self._answer(200, "text/html; charset=utf-8", gzip.decompress(packed))

        def _answer(self, status: int, kind: str, body: bytes, encoding: str = "") -> None:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-store"}
            headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
            headers |= {"X-Frame-Options": "DENY", "Vary": "Accept-Encoding"}
            for name, value in (headers | ({"Content-Encoding": encoding} if encoding else {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: a probe every few seconds is no news."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    return Server((host, port), Handler)
