"""Uploading pipelines to Kubeflow Pipelines, starting runs there, and following them to their end."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import kfp_server_api as kfp

from matchmaking.errors import InputError, MlopsError
from matchmaking.settings import EXPERIMENT, kfp_run_url, package_version
from matchmaking.steps import ERROR_MARK, SUMMARY_MARK
from matchmaking.tracking import now
from pipelines.compile import PIPELINES, compile_pipeline
from pipelines.kfp_api import Server, ServerError, UnsureError
from pipelines.memory import killed
from pipelines.pods import PROMOTION_ACCOUNT, memory_limit

ENDED = frozenset({"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"})
STATELESS = (None, "RUNTIME_STATE_UNSPECIFIED")
# what KFP's launcher and Argo say of a process that was ended by SIGKILL, at the end of a log
_KILLED, KILLED_LINES = re.compile(r"exit status 137|exit code 137|signal: killed|OOMKilled"), 10
FIRST_POLL, LONGEST_POLL = 0.5, 5.0
ATTEMPTS = 3
# KFP's own plugin looks for an MLflow of its own and fails beside each run; our steps record their runs themselves
PLUGINS = {"mlflow": {"disabled": True}}


@dataclass(frozen=True)
class Version:
    """A pipeline as a server has it.

    Attributes:
        pipeline: its name here and there.
        name: of the version: the package's version and a hash of the compiled pipeline.
        pipeline_id, version_id: the server's.
        uploaded: whether it wasn't there before.
        titles: the steps' display names, by task.
    """

    pipeline: str
    name: str
    pipeline_id: str
    version_id: str
    uploaded: bool
    titles: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """A run on a server; `found` if it was there already and not started anew."""

    run_id: str
    name: str
    url: str
    found: bool
    titles: Mapping[str, str]


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


def upload_all(host: str) -> list[Version]:
    """Uploads every pipeline that the server doesn't have in this version.

    Raises:
        ServerError: the server can't be reached, or refuses.
    """
    server = Server(host)
    server.check()
    return [upload(server, name) for name in PIPELINES]


def upload(server: Server, pipeline: str) -> Version:
    """Uploads a pipeline as a version of the KFP pipeline of its name, where it isn't there yet."""
    text = compiled(pipeline)
    name = f"{package_version()}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    pipeline_id = _pipeline(server, pipeline).pipeline_id
    found = _version(server, pipeline_id, name)
    uploaded = found is None
    if found is None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{pipeline}.yaml"
            path.write_text(text, encoding="utf-8")
            found = _create(
                lambda: server.write(
                    server.uploads.upload_pipeline_version, str(path), name=name, pipelineid=pipeline_id
                ),
                lambda: _version(server, pipeline_id, name),
            )
    return Version(pipeline, name, pipeline_id, found.pipeline_version_id, uploaded, _titles(text))


def experiment_id(server: Server, name: str = EXPERIMENT) -> str:
    """The id of an experiment, which is created where it isn't there."""

    def find() -> Any:
        listed = server.read(server.experiments.experiment_service_list_experiments, filter=named(name))
        return next(iter(listed.experiments or []), None)

    def create() -> Any:
        experiment = kfp.V2beta1Experiment(display_name=name)
        return server.write(server.experiments.experiment_service_create_experiment, experiment)

    return str((find() or _create(create, find)).experiment_id)


def start(
    server: Server, version: Version, arguments: Mapping[str, Any], name: str = "", experiment: str = EXPERIMENT
) -> Run:
    """Starts a run; of one name, at most one.

    Args:
        server: where.
        version: what.
        arguments: the pipeline's parameters.
        name: the run's. One that is there already is given back instead of a second one, so who may be started twice
            for one purpose (a Job's pods) gives its own name here. Left out, it is a new one.
        experiment: the KFP experiment's name.

    Raises:
        ServerError: the server can't be reached, or refuses.
    """
    experiment_key = experiment_id(server, experiment)
    called = name or f"{version.pipeline}_{now()}_{secrets.token_hex(2)}"

    def find() -> Any:
        listed = server.read(
            server.runs.run_service_list_runs, experiment_id=experiment_key, filter=named(called), sort_by="created_at"
        )
        return next(iter(listed.runs or []), None)

    def create() -> Any:
        reference = kfp.V2beta1PipelineVersionReference(version.pipeline_id, version.version_id)
        run = kfp.V2beta1Run(
            experiment_id=experiment_key,
            display_name=called,
            pipeline_version_reference=reference,
            runtime_config=kfp.V2beta1RuntimeConfig(parameters=dict(arguments)),
            service_account=account(version.pipeline),
            plugins_input=PLUGINS,
        )
        return server.write(server.runs.run_service_create_run, run)

    found = find() if name else None
    if found and (of := found.pipeline_version_reference) and of.pipeline_id != version.pipeline_id:
        raise InputError(f"--name {name}: a run of another pipeline has that name")
    run = found or _create(create, find)
    return Run(run.run_id, called, kfp_run_url(run.run_id, server.host), found is not None, version.titles)


def account(pipeline: str) -> str | None:
    """The service account of a pipeline's pods; None for KFP's own."""
    return PROMOTION_ACCOUNT if pipeline == "promote" else None


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
    run = Run(run_id, found.display_name, kfp_run_url(run_id, server.host), True, _titles_of(server, found))
    return _ended(server, run, _end_state(found), _details(found), _parameters(found))


def terminate(server: Server, run: Run) -> None:
    """Stops a run."""
    server.write(server.runs.run_service_terminate_run, run.run_id)


# takes as long as all the rest
compiled = cache(compile_pipeline)


def named(name: str) -> str:
    """KFP's filter for what has this display name (1 is EQUALS)."""
    return json.dumps({"predicates": [{"operation": 1, "key": "display_name", "stringValue": name}]})


def _pipeline(server: Server, name: str) -> Any:
    def find() -> Any:
        listed = server.read(server.pipelines.pipeline_service_list_pipelines, filter=named(name))
        return next(iter(listed.pipelines or []), None)

    def create() -> Any:
        pipeline = kfp.V2beta1Pipeline(display_name=name, name=name)
        return server.write(server.pipelines.pipeline_service_create_pipeline, pipeline)

    return find() or _create(create, find)


def _version(server: Server, pipeline_id: str, name: str) -> Any:
    listed = server.read(server.pipelines.pipeline_service_list_pipeline_versions, pipeline_id, filter=named(name))
    return next(iter(listed.pipeline_versions or []), None)


def _create(create: Callable[[], Any], find: Callable[[], Any]) -> Any:
    """Creates something once: where no answer came, or somebody else was first, what is there is taken."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return create()
        except UnsureError:
            if attempt == ATTEMPTS:
                raise
            # the server may be busy with it still
            time.sleep(attempt)
        except ServerError:
            if found := find():
                return found
            raise
        if found := find():
            return found
    raise AssertionError("unreachable")


def _titles(compiled: str) -> dict[str, str]:
    """The display name of each task that is a step."""
    import yaml

    return _titles_in(next(yaml.safe_load_all(compiled)))


def _titles_in(spec: Mapping[str, Any]) -> dict[str, str]:
    executed = {name for name, component in spec["components"].items() if "executorLabel" in component}
    dags = [spec["root"]["dag"], *(part["dag"] for part in spec["components"].values() if "dag" in part)]
    return {
        task: found["taskInfo"]["name"]
        for dag in dags
        for task, found in dag["tasks"].items()
        if found["componentRef"]["name"] in executed
    }


def _titles_of(server: Server, run: Any) -> dict[str, str]:
    """The same of a run on the server; empty where its pipeline was deleted."""
    version = run.pipeline_version_reference
    if version is None:
        return {}
    try:
        found = server.read(
            server.pipelines.pipeline_service_get_pipeline_version, version.pipeline_id, version.pipeline_version_id
        )
        return _titles_in(found.pipeline_spec["pipeline_spec"])
    except (ServerError, KeyError, TypeError):
        return {}


def _end_state(run: Any) -> str:
    """The state a run ended in; one that was terminated ends as failed, and only its history says so."""
    passed = {status.state for status in run.state_history or []}
    return "CANCELED" if run.state == "FAILED" and "CANCELING" in passed else str(run.state)


def _details(run: Any) -> dict[str, Any]:
    """The nodes of a run by the name they have in it: a task's is the task's own, its driver's ends in -driver."""
    return {node.display_name: node for node in (run.run_details.task_details if run.run_details else None) or []}


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
