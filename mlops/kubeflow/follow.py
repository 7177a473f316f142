"""Following a run on Kubeflow Pipelines to its end, and finding out why it failed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matchmaking.base.errors import MlopsError
from matchmaking.base.settings import kfp_run_url
from matchmaking.tracking.step import ERROR_MARK, SUMMARY_MARK
from mlops.kubeflow.kfp_api import Server, ServerError
from mlops.kubeflow.submit import Run, titles_of
from pipelines.memory import killed
from pipelines.pods import memory_limit

ENDED = frozenset({"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"})
STATELESS = (None, "RUNTIME_STATE_UNSPECIFIED")
# what KFP's launcher and Argo say of a process that was ended by SIGKILL, at the end of a log
_KILLED, KILLED_LINES = re.compile(r"exit status 137|exit code 137|signal: killed|OOMKilled"), 10
FIRST_POLL, LONGEST_POLL = 0.5, 5.0


@dataclass(frozen=True)
class Step:
    """A step of a run.

    Attributes:
        task: its task's name.
        title: its display name.
        state: KFP's; PENDING before there is one, OMITTED for one that will never run.
        seconds: how long it took, if it has ended.
    """

    task: str
    title: str
    state: str
    seconds: float | None


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        state: KFP's.
        summary: of its report, as in summary.json; None where it has none or it couldn't be read.
        promotion: the audit entry, where it has promoted; empty where production held the model already.
        error: step, message and exit_code, where it failed.
    """

    state: str
    summary: dict[str, Any] | None = None
    promotion: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        """0, or that of the failed step's error."""
        return int(self.error["exit_code"]) if self.error else 0


def follow(
    server: Server, run: Run, on_step: Callable[[Step], None] = lambda step: None, seconds: float | None = None
) -> Ended:
    """Waits until a run has ended.

    Args:
        server: where it runs.
        run: the run.
        on_step: called when a step's state has changed.
        seconds: how long to wait, at most.

    Raises:
        MlopsError: it hasn't ended by then; it goes on.
        ServerError: the server is away for longer than it is waited for.
    """
    begin, poll = time.monotonic(), FIRST_POLL
    known: dict[str, str] = {}
    while True:
        try:
            found = server.read(server.runs.run_service_get_run, run.run_id)
        except ServerError as error:
            raise ServerError(f"{error}; the run may go on: {run.url}") from error
        details = _details(found)
        for step in _steps(details, run.titles):
            if known.get(step.task) != step.state:
                known[step.task] = step.state
                on_step(step)
                poll = FIRST_POLL
        if found.state in ENDED:
            return _ended(server, run, _end_state(found), details, _parameters(found))
        if seconds is not None and time.monotonic() - begin > seconds:
            state = (found.state or "PENDING").lower()
            raise MlopsError(f"the run is still {state} after {seconds:.0f} s; it goes on: {run.url}")
        time.sleep(poll)
        poll = min(LONGEST_POLL, poll * 1.5)


def ended(server: Server, run_id: str) -> Ended | None:
    """How a run that somebody has started has ended; None for one that goes on.

    Raises:
        ServerError: the server can't be reached; with status 404, it has no such run.
    """
    found = server.read(server.runs.run_service_get_run, run_id)
    if found.state not in ENDED:
        return None
    run = Run(run_id, found.display_name, kfp_run_url(run_id, server.host), True, titles_of(server, found))
    return _ended(server, run, _end_state(found), _details(found), _parameters(found))


def _end_state(run: Any) -> str:
    """The state a run ended in; one that was terminated ends as failed, and only its history says so."""
    passed = {status.state for status in run.state_history or []}
    return "CANCELED" if run.state == "FAILED" and "CANCELING" in passed else str(run.state)


def _details(run: Any) -> dict[str, Any]:
    """The nodes of a run by the name they have in it: a task's is the task's own, its driver's ends in -driver.

    The steps of a loop have one name: one that failed stands for them, or else one that runs.
    """
    nodes = (run.run_details.task_details if run.run_details else None) or []
    told = {"RUNNING": 1, "FAILED": 2}
    return {node.display_name: node for node in sorted(nodes, key=lambda node: told.get(node.state, 0))}


def _steps(details: Mapping[str, Any], titles: Mapping[str, str]) -> Iterable[Step]:
    for task in sorted(titles.keys() & details.keys(), key=lambda task: _since(details[task])):
        node = details[task]
        over = node.end_time is not None and node.end_time.year > 1970
        # what a failure before it, or a condition, leaves out has no state, and ends when it begins
        state = ("OMITTED" if over else "PENDING") if node.state in STATELESS else node.state
        seconds = (node.end_time - node.start_time).total_seconds() if over and node.start_time else None
        yield Step(task, titles[task], state, seconds if state in ENDED else None)


def _task(node_name: str) -> str:
    """The task that a node belongs to; each has its driver before it."""
    return node_name.removesuffix("-driver")


def _since(node: Any) -> float:
    return node.start_time.timestamp() if node.start_time and node.start_time.year > 1970 else float("inf")


def _ended(server: Server, run: Run, state: str, details: Mapping[str, Any], arguments: Mapping[str, Any]) -> Ended:
    if state == "CANCELED":
        return Ended(state, error={"step": None, "exit_code": 1, "message": f"the run was cancelled: {run.url}"})
    if state == "FAILED":
        return Ended(state, error=_failure(server, run, details, arguments))
    outcome = {task: _marked(_logs(server, run, details.get(task)), SUMMARY_MARK) for task in ("report", "promote")}
    return Ended(state, outcome["report"], (outcome["promote"] or {}).get("entry"))


def _failure(server: Server, run: Run, details: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Why a run failed: what the step that failed first has said, or the end of what it has printed."""
    failed = [name for name, node in details.items() if node.state == "FAILED" and _task(name) in run.titles]
    for name in sorted(failed, key=lambda name: (_since(details[name]), name)):
        logs = _logs(server, run, details[name])
        if error := _marked(logs, ERROR_MARK):
            return error
        lines = [line.strip() for log in logs for line in log.splitlines() if line.strip()]
        task = _task(name)
        limit = memory_limit(task, arguments)
        if any(_KILLED.search(line) for line in lines[-KILLED_LINES:]):
            return {"step": task, "exit_code": 1, "message": killed(task, limit, arguments)}
        last = f"its last line: {lines[-1][:200]}" if lines else "no log of it could be read"
        # where the launcher is killed with it, nobody says so
        memory = f"out of memory, of which it may have {limit}" if name == task else "out of memory"
        why = f"{memory}; evicted, too slow, no image"
        message = f"it ended without telling why ({why}?); {last}"
        return {"step": name, "exit_code": 1, "message": message}
    return {"step": None, "exit_code": 1, "message": "no step has said why; the Kubeflow Pipelines UI shows more"}


def _parameters(run: Any) -> dict[str, Any]:
    return dict((run.runtime_config.parameters if run.runtime_config else None) or {})


def _logs(server: Server, run: Run, node: Any) -> list[str]:
    """What the attempts of a step have printed; the server finds a step's pod below the node's children."""
    children = [child.pod_name for child in (node.child_tasks if node else None) or [] if child.pod_name]
    return [log for child in children if (log := server.log(run.run_id, child)) is not None]


def _marked(logs: Iterable[str], mark: str) -> dict[str, Any] | None:
    """The first line of the logs with a mark, read."""
    for log in logs:
        for line in log.splitlines():
            _, found, rest = line.partition(mark)
            if found:
                try:
                    return dict(json.loads(rest))
                except ValueError:
                    continue
    return None
