"""`mlops experiment up` as a test has it: started, asked, made ill, and its exposure log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from matchmaking.experiments.exposures import read_exposures
from tests.services.conftest import free_ports, program
from tests.services.load import PAYLOAD, ask

SERVICE = f"{sys.executable} -m tests.services.match_service {{models}} {{port}}"
MLOPS = str(Path(sys.executable).with_name("mlops"))
ROOT = Path(__file__).parents[2]
RATE = 100
Models = dict[str, Path]


def nginx() -> str:
    if "/usr/sbin" not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] += f"{os.pathsep}/usr/sbin"
    return program("nginx")


class Experiment:
    """A running `mlops experiment up`."""

    def __init__(self, folder: Path, models: Models, *options: str) -> None:
        self.folder, self.models = folder / "experiment", models
        self.port, self.champion, self.challenger = free_ports(3)
        command = [
            *(MLOPS, "experiment", "up", "--champion", str(models["champion"]), "--challenger"),
            *(str(models["challenger"]), "--service", SERVICE, "--name", "ranking-1", "--port", str(self.port)),
            *("--champion-port", str(self.champion), "--challenger-port", str(self.challenger)),
            *("--folder", str(self.folder), *options),
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            # a run of tests in the background of a script ignores it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.said: list[str] = []
        ready = threading.Event()

        def listen() -> None:
            assert self.process.stdout
            for line in self.process.stdout:
                self.said.append(line)
                if "The gateway answers" in line:
                    ready.set()
            ready.set()

        self.listener = threading.Thread(target=listen, daemon=True)
        self.listener.start()
        assert ready.wait(120) and self.process.poll() is None, "".join(self.said)

    def ill(self, variant: str, **how: Any) -> None:
        """What the service suffers from, from the next request on; nothing for health."""
        path = self.models[variant] / "control.json"
        if how:
            path.with_suffix(".tmp").write_text(json.dumps(how))
            path.with_suffix(".tmp").replace(path)
        else:
            path.unlink(missing_ok=True)

    def service(self, variant: str) -> psutil.Process:
        (found,) = [
            each
            for each in psutil.Process(self.process.pid).children(recursive=True)
            if str(self.models[variant]) in each.cmdline() and each.status() != psutil.STATUS_ZOMBIE
        ]
        return found

    def mlops(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [MLOPS, "experiment", *arguments, "--folder", str(self.folder)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    def until_healthy(self, variant: str) -> None:
        """Waits until a service answers, asked directly."""
        port = getattr(self, variant)
        until(lambda: asyncio.run(ask(port, None, PAYLOAD))[0] == 200)

    def answer(self, variant: str) -> bytes:
        status, body = asyncio.run(ask(getattr(self, variant), None, PAYLOAD))
        assert status == 200
        return body

    def rows(self) -> list[dict[str, Any]]:
        # here or shipped already, or on the way
        found = read_exposures(self.folder)
        assert {one.code for one in found.findings} <= {"duplicate-line", "unreadable-part"}
        return [{str(key): value for key, value in row.items()} for row in found.frame.to_dict("records")]

    def forget(self) -> None:
        """Begins the log anew, by what is there so far, once the copies under way are there too."""

        def complete() -> bool:
            lines = Counter(row["request"] for row in self.rows() if row["mode"] == "shadow")
            return set(lines.values()) <= {2}

        until(complete)
        self.skip = len(self.rows())

    skip = 0

    def new_rows(self, count: int) -> list[dict[str, Any]]:
        """The rows since `forget`, once there are so many."""
        until(lambda: len(self.rows()) - self.skip >= count)
        rows = self.rows()[self.skip :]
        assert len(rows) == count
        return rows

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def until(done: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers(experiment: Experiment) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(int((experiment.folder / "nginx.pid").read_text())).children()
    return []
