"""A stand-in for a Docker engine, where none is to be had: its API over TCP, by which the real client runs steps.

A container is a process of this machine, with the container's command and environment and nothing of this process's.
What it shuts in (users, mounts, networks) is for tests with an engine, `tests/services/test_docker.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

VERSION = "1.44"


class Engine:
    """What was created is in `created`, by name: the body of the request, and what became of the process."""

    def __init__(self) -> None:
        self.created: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, subprocess.CompletedProcess[bytes]] = {}
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                address = urlsplit(self.path)
                names = parse_qs(address.query).get("name", [""])
                path = address.path.removeprefix(f"/v{VERSION}").strip("/").split("/")
                found = engine.answer(self.command, path, names[0], json.loads(body) if body else {})
                content = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

            do_GET = do_POST = do_DELETE = handle_any

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"tcp://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, method: str, path: list[str], name: str, body: dict[str, Any]) -> Any:
        match [method, *path]:
            case ["GET", "version"]:
                return {"ApiVersion": VERSION}
            case ["GET", "info"]:
                return {"SecurityOptions": []}
            case ["GET", "images", *_]:
                return {"Id": "sha256:0", "RepoTags": []}
            case ["POST", "containers", "create"]:
                self.created[name] = body
                return {"Id": name}
            case ["GET", "containers", held, "json"]:
                return {"Id": held, "Config": {"Tty": False}}
            case ["POST", "containers", held, "start"]:
                self.ended[held] = _run(self.created[held])
            case ["GET", "containers", held, "logs"]:
                said = self.ended[held].stdout
                # the frame of a stream: which one, and how much follows
                return b"\1\0\0\0" + len(said).to_bytes(4, "big") + said
            case ["POST", "containers", held, "wait"]:
                return {"StatusCode": self.ended[held].returncode}
        return {}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def _run(container: dict[str, Any]) -> subprocess.CompletedProcess[bytes]:
    # as an image has them
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": "/tmp"}
    env |= dict(each.split("=", 1) for each in container.get("Env") or [])
    return subprocess.run(
        container["Cmd"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False
    )
