"""What a local run shows of its steps while they run."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from matchmaking.base.escape import for_terminal
from matchmaking.base.redact import redact
from matchmaking.tracking.step import ERROR_MARK, UNMARKED, costs_of

_STARTED = re.compile(r"Executing task .*?'([\w-]+)'")
# what kfp adds to the name of a task that is there twice
_SECOND = re.compile(r"-\d+$")
COLOURS = re.compile(r"\x1b\[\d+m")


class _Own(threading.local):
    """What each thread has begun to write, and its last line."""

    line = last = ""


class Watcher(io.TextIOBase):
    """Takes what kfp and the steps print: to the log, and picks out which step runs and why one failed.

    Steps that run side by side have a thread each, which write into it: their lines come whole, one after the other.
    """

    def __init__(self, log: TextIO, on_step: Callable[[str], None], echo: TextIO | None) -> None:
        self.log, self.on_step, self.echo = log, on_step, echo
        self.failure: dict[str, Any] | None = None
        self.step = self.died = ""
        self.unmarked = self.stopped = False
        self.failed: set[str] = set()
        # what on_step prints may come here, too
        self.own, self.lock = _Own(), threading.RLock()

    def write(self, text: str) -> int:
        *lines, self.own.line = (self.own.line + text).split("\n")
        with self.lock:
            self._take(lines)
        return len(text)

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            plain = COLOURS.sub("", line)
            # whole lines only: a credential may come in pieces. kfp's colours aside, what a step prints is data's too
            shown = for_terminal(redact(plain))
            for output in (self.log, self.echo):
                if output:
                    output.write(f"{shown}\n")
            plain = plain.strip()
            if started := _STARTED.search(plain):
                self.step = started[1].replace("-2", " current")
                self.on_step(self.step)
            elif plain.startswith(ERROR_MARK) and self.failure is None:
                self.failure = json.loads(plain.removeprefix(ERROR_MARK))
            elif plain.startswith(UNMARKED):
                self.unmarked = True
            self.own.last = plain or self.own.last

    def flush(self) -> None:
        self.log.flush()


@dataclass(frozen=True)
class Steps:
    """What the steps of a run have left in its folder.

    Attributes:
        outputs: files and folders by `<step>/<output>`; of a step that runs twice, those of the later.
        values: the other outputs by name; of a step that runs twice, those of the earlier.
        costs: each step's.
    """

    outputs: dict[str, Path]
    values: dict[str, Any]
    costs: list[dict[str, Any]]

    @classmethod
    def of(cls, folder: Path) -> Steps:
        outputs: dict[str, Path] = {}
        values: dict[str, Any] = {}
        costs: dict[str, dict[str, Any]] = {}
        done = sorted((folder / "steps").glob("*/*/executor_output.json"), key=lambda path: path.stat().st_mtime_ns)
        for record in done:
            found = json.loads(record.read_text())
            values = {**found.get("parameterValues", {}), **values}
            for output in found.get("artifacts", {}).values():
                for artifact in output["artifacts"]:
                    for cost in costs_of(artifact.get("metadata", {})):
                        costs.setdefault(cost["step"], cost)
        # a step that fails has no record, but may have written something
        for task in sorted((folder / "steps").glob("*/*"), key=lambda path: path.stat().st_mtime_ns):
            outputs |= {f"{_SECOND.sub('', task.name)}/{path.name}": path for path in task.iterdir()}
        return cls(outputs, values, list(costs.values()))
