"""A stand-in for Kubeflow Pipelines: a real HTTP server that speaks the v2beta1 API's shapes.

No KFP runs without a Kubernetes cluster, so this answers in its place. The answers are made from the models of
`kfp-server-api`, KFP's own client, and hold what 2.17's API server fills in: nodes carry Argo's names but not their own
ids, children are named by theirs, and each template is wrapped in a retry node, as 2.17's install has it. It checks
what that server checks of what is asked here (names in use, references, six-field cron) and carries nothing out: a
run's steps go by as it is looked at. Faults can be laid in its way. More than 400 lines, as it is one server: its
answers are of one state.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as kfp
import yaml

from matchmaking.tracking.step import ERROR_MARK, SUMMARY_MARK

ZERO = datetime(1, 1, 1, tzinfo=UTC)  # Go's, where there is no time
PAGE = "<!doctype html><html><body>Sign in</body></html>"
STEPS_A_LOOK = 4


@dataclass
class Fault:
    """What happens instead of an answer, `times` times.

    Attributes:
        method, path: of the requests it hits; a regular expression, searched.
        kind: a status; "html"; "slow" (no answer in time); "lost" (carried out, but the connection breaks off).
    """

    method: str
    path: str
    kind: int | str
    times: int = 1


@dataclass
class Node:
    """One node of a workflow; `state` is KFP's."""

    name: str
    children: list[str] = field(default_factory=list)
    state: str | None = "SUCCEEDED"
    log: str | None = None
    begun: datetime = ZERO
    ended: datetime = ZERO


@dataclass
class Plan:
    """How the runs of a pipeline go.

    Attributes:
        tasks: in their order.
        summary: what the report's log ends with.
        entry: what the promotion's does.
        failing: the task that fails.
        error: what it says; None: it dies without a word.
        last_words: what its launcher says then.
        ends: whether a run ends at all.
    """

    tasks: list[str]
    summary: dict[str, Any] | None = None
    entry: dict[str, Any] | None = None
    failing: str | None = None
    error: dict[str, Any] | None = None
    last_words: str = "Killed"
    ends: bool = True


class Refusal(Exception):
    """An error answer of the API."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeKfp:
    """The server's state; what it was asked is in `requests`."""

    def __init__(self) -> None:
        self.version = "2.17.0"
        self.behind_ui = True
        self.ready = True
        self.plans: dict[str, Plan] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.experiments: dict[str, kfp.V2beta1Experiment] = {}
        self.pipelines: dict[str, kfp.V2beta1Pipeline] = {}
        self.versions: dict[str, kfp.V2beta1PipelineVersion] = {}
        self.runs: dict[str, kfp.V2beta1Run] = {}
        self.recurring: dict[str, kfp.V2beta1RecurringRun] = {}
        self.looks: dict[str, int] = {}
        self.stopped: dict[str, int] = {}
        self.url = ""
        self._lock = threading.Lock()
        self._client = kfp.ApiClient()

    def count(self, method: str, path: str) -> int:
        """How often something was asked."""
        return sum(asked == method and re.search(path, where) is not None for asked, where in self.requests)

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> dict[str, Any]:
        """Carries a request out."""
        with self._lock:
            for pattern, function in _ROUTES:
                verb, _, template = pattern.partition(" ")
                if verb == method and (match := re.fullmatch(template, path)):
                    found = function(self, *match.groups(), query=query, body=body)
                    return self._client.sanitize_for_serialization(found)
        raise Refusal(404, "Not Found")

    # what the routes do

    def health(self, query: Any, body: Any) -> dict[str, Any]:
        own = {"commit_sha": "0", "tag_name": self.version, "multi_user": False}
        if not self.behind_ui:
            return own
        ui = {"frontendTagName": self.version, "multi_user": False}
        return {**ui, "apiServerReady": True, "apiServerTagName": self.version} if self.ready else ui

    def list_experiments(self, query: dict[str, str], body: Any) -> Any:
        return kfp.V2beta1ListExperimentsResponse(experiments=_filtered(self.experiments, query))

    def create_experiment(self, query: Any, body: bytes) -> Any:
        name = json.loads(body)["display_name"]
        _unused(self.experiments, name)
        new = kfp.V2beta1Experiment(experiment_id=_id(), display_name=name, created_at=_now())
        self.experiments[new.experiment_id] = new
        return new

    def list_pipelines(self, query: dict[str, str], body: Any) -> Any:
        return kfp.V2beta1ListPipelinesResponse(pipelines=_filtered(self.pipelines, query))

    def create_pipeline(self, query: Any, body: bytes) -> Any:
        name = json.loads(body)["display_name"]
        _unused(self.pipelines, name)
        new = kfp.V2beta1Pipeline(pipeline_id=_id(), display_name=name, name=name, created_at=_now())
        self.pipelines[new.pipeline_id] = new
        return new

    def list_versions(self, pipeline_id: str, query: dict[str, str], body: Any) -> Any:
        own = {key: found for key, found in self.versions.items() if found.pipeline_id == pipeline_id}
        return kfp.V2beta1ListPipelineVersionsResponse(pipeline_versions=_filtered(own, query))

    def get_version(self, pipeline_id: str, version_id: str, query: Any, body: Any) -> Any:
        if version_id not in self.versions:
            raise Refusal(404, f"pipeline version {version_id} not found")
        return self.versions[version_id]

    def upload_version(self, query: dict[str, str], body: bytes) -> Any:
        if query.get("pipelineid") not in self.pipelines:
            raise Refusal(400, "Failed to create a pipeline version")
        _unused({key: v for key, v in self.versions.items() if v.pipeline_id == query["pipelineid"]}, query["name"])
        _, _, rest = body.partition(b"\r\n\r\n")
        documents = list(yaml.safe_load_all(rest[: rest.rindex(b"\r\n--")]))
        if "pipelineInfo" not in documents[0] or "platforms" not in documents[1]:
            raise Refusal(400, "Failed to read a pipeline spec file")
        new = kfp.V2beta1PipelineVersion(
            pipeline_id=query["pipelineid"],
            pipeline_version_id=_id(),
            display_name=query["name"],
            name=query["name"],
            pipeline_spec={"pipeline_spec": documents[0], "platform_spec": documents[1]},
            created_at=_now(),
        )
        self.versions[new.pipeline_version_id] = new
        return new

    def create_run(self, query: Any, body: bytes) -> Any:
        asked = json.loads(body)
        version = self._referred(asked)
        parameters = asked["runtime_config"]["parameters"]
        known = version.pipeline_spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        if wrong := parameters.keys() - known.keys():
            raise Refusal(400, f"parameters {sorted(wrong)} are not in the pipeline")
        if missing := {name for name, spec in known.items() if not spec.get("isOptional")} - parameters.keys():
            raise Refusal(400, f"parameters {sorted(missing)} are missing")
        new = kfp.V2beta1Run(**asked, run_id=_id(), state="PENDING", created_at=_now())
        self.runs[new.run_id] = new
        return new

    def list_runs(self, query: dict[str, str], body: Any) -> Any:
        runs = {key: run for key, run in self.runs.items() if run.experiment_id == query.get("experiment_id")}
        found = _filtered(runs, query)
        return kfp.V2beta1ListRunsResponse(runs=found[::-1] if query.get("sort_by", "").endswith("desc") else found)

    def get_run(self, run_id: str, query: Any, body: Any) -> Any:
        run = self._run(run_id)
        self.looks[run_id] = self.looks.get(run_id, 0) + 1
        if run.state_history:
            # as the server has it: cancelling while Argo stops the pods, and failed in the end
            state = "FAILED" if len(run.state_history) > 1 else "CANCELING"
            run.state_history.append(kfp.V2beta1RuntimeStatus(state=state))
            nodes, _ = self.nodes(run)
            run.state = state
        else:
            nodes, run.state = self.nodes(run)
        run.run_details = kfp.V2beta1RunDetails(task_details=[_detail(run_id, node) for node in nodes.values()])
        return run

    def terminate(self, run_id: str, query: Any, body: Any) -> Any:
        run = self._run(run_id)
        run.state, run.state_history = "CANCELING", [kfp.V2beta1RuntimeStatus(state="CANCELING")]
        self.stopped[run_id] = self.looks.get(run_id, 0)
        return {}

    def read_log(self, run_id: str, node_id: str, query: Any, body: Any) -> Any:
        nodes, _ = self.nodes(self._run(run_id))
        log = _find_log(nodes, node_id, 3)
        if log is None:
            raise Refusal(404, "artifact not found")
        return {"data": base64.b64encode(log.encode()).decode()}

    def create_recurring(self, query: Any, body: bytes) -> Any:
        asked = json.loads(body)
        self._referred(asked)
        if asked.get("plugins_input"):
            raise Refusal(400, "the server drops the parameters of a recurring run with plugins, and never starts it")
        if len(asked["trigger"]["cron_schedule"]["cron"].split()) != 6:
            raise Refusal(400, "Schedule cron is not supported, for the wrong number of fields")
        if not 1 <= int(asked["max_concurrency"]) <= 10:
            raise Refusal(400, "max concurrency must be at least 1 and at most 10")
        new = self._client._ApiClient__deserialize(  # type: ignore[attr-defined]
            {**asked, "recurring_run_id": _id(), "status": "ENABLED", "created_at": _now().isoformat()},
            "V2beta1RecurringRun",
        )
        self.recurring[new.recurring_run_id] = new
        return new

    def list_recurring(self, query: dict[str, str], body: Any) -> Any:
        found = {key: run for key, run in self.recurring.items() if run.experiment_id == query.get("experiment_id")}
        return kfp.V2beta1ListRecurringRunsResponse(recurring_runs=_filtered(found, query))

    def delete_recurring(self, run_id: str, query: Any, body: Any) -> Any:
        if self.recurring.pop(run_id, None) is None:
            raise Refusal(404, "recurring run not found")
        return {}

    def nodes(self, run: kfp.V2beta1Run) -> tuple[dict[str, Node], str]:
        """The workflow as far as it has come: nodes by Argo's ids, and the run's state."""
        version = self._referred(self._client.sanitize_for_serialization(run))
        name = version.pipeline_spec["pipeline_spec"]["pipelineInfo"]["name"]
        plan = self.plans[name]
        workflow = f"{name}-x7k2p"
        nodes = {workflow: Node(workflow, state="RUNNING")}
        stopped = self.stopped.get(run.run_id)
        come = (self.looks.get(run.run_id, 0) if stopped is None else stopped) * STEPS_A_LOOK - 2
        for place, task in enumerate(plan.tasks):
            if place > come:
                break
            ended = "FAILED" if task == plan.failing or place == come else "SUCCEEDED"
            state = "RUNNING" if place == come and stopped is None else ended
            own = _nodes(workflow, task, state, self._log(plan, task) if place < come else None)
            for node in own.values():
                node.begun = run.created_at + timedelta(seconds=20 * place)
                node.ended = node.begun + timedelta(seconds=3 + place)
            nodes |= own
            if state == "FAILED":
                # the API's JSON leaves out a state that is none; Argo makes such a node when it is sure to be left out
                omitted = {"state": None, "begun": node.ended, "ended": node.ended}
                nodes |= {f"{workflow}-omitted-{left}": Node(left, **omitted) for left in plan.tasks[place + 1 :]}
                return nodes, "FAILED"
        return nodes, "SUCCEEDED" if plan.ends and come >= len(plan.tasks) else "RUNNING"

    def _log(self, plan: Plan, task: str) -> str:
        lines = ["time=x level=info msg=capturing logs", f"{task} says something"]
        if task == plan.failing:
            lines += [ERROR_MARK + json.dumps(plan.error)] if plan.error else [plan.last_words]
        elif task == "report" and plan.summary:
            lines.append(SUMMARY_MARK + json.dumps(plan.summary))
        elif task == "promote" and plan.entry is not None:
            lines.append(SUMMARY_MARK + json.dumps({"pipeline": "promote", "entry": plan.entry}))
        return "\n".join([*lines, "I1123 launcher_v2.go] done", ""])

    def _referred(self, asked: dict[str, Any]) -> kfp.V2beta1PipelineVersion:
        if asked["experiment_id"] not in self.experiments:
            raise Refusal(404, f"experiment {asked['experiment_id']} not found")
        reference = asked["pipeline_version_reference"]
        version = self.versions.get(reference["pipeline_version_id"])
        if version is None or version.pipeline_id != reference["pipeline_id"]:
            raise Refusal(404, "pipeline version not found")
        return version

    def _run(self, run_id: str) -> kfp.V2beta1Run:
        if run_id not in self.runs:
            raise Refusal(404, f"run {run_id} not found")
        return self.runs[run_id]


_API = "/apis/v2beta1"
_ROUTES = [
    (f"GET {_API}/healthz", FakeKfp.health),
    (f"GET {_API}/experiments", FakeKfp.list_experiments),
    (f"POST {_API}/experiments", FakeKfp.create_experiment),
    (f"GET {_API}/pipelines", FakeKfp.list_pipelines),
    (f"POST {_API}/pipelines", FakeKfp.create_pipeline),
    (f"POST {_API}/pipelines/upload_version", FakeKfp.upload_version),
    (f"GET {_API}/pipelines/([^/]+)/versions", FakeKfp.list_versions),
    (f"GET {_API}/pipelines/([^/]+)/versions/([^/]+)", FakeKfp.get_version),
    (f"GET {_API}/runs", FakeKfp.list_runs),
    (f"POST {_API}/runs", FakeKfp.create_run),
    (f"GET {_API}/runs/([^/]+)", FakeKfp.get_run),
    (f"POST {_API}/runs/([^/]+):terminate", FakeKfp.terminate),
    (f"GET {_API}/runs/([^/]+)/nodes/([^/]+)/artifacts/main-logs:read", FakeKfp.read_log),
    (f"GET {_API}/recurringruns", FakeKfp.list_recurring),
    (f"POST {_API}/recurringruns", FakeKfp.create_recurring),
    (f"DELETE {_API}/recurringruns/([^/]+)", FakeKfp.delete_recurring),
]


@contextmanager
def kfp_server() -> Iterator[FakeKfp]:
    """Serves on a free port of this machine."""
    state = FakeKfp()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.requests.append((self.command, url.path))
            fault = next((f for f in state.faults if f.method == self.command and re.search(f.path, url.path)), None)
            if fault is not None:
                fault.times -= 1
                if fault.times <= 0:
                    state.faults.remove(fault)
                if fault.kind == "slow":
                    time.sleep(2)
                if fault.kind == "html":
                    return self._send(200, PAGE.encode(), "text/html")
                if isinstance(fault.kind, int):
                    return self._send(fault.kind, json.dumps({"code": 13, "message": "the server said no"}).encode())
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            try:
                status, found = 200, state.answer(self.command, url.path, query, body)
            except Refusal as refusal:
                status, found = refusal.status, {"code": 5, "message": str(refusal), "details": []}
            if fault is not None:  # slow or lost
                self.close_connection = True
                return None
            return self._send(status, json.dumps(found).encode())

        def _send(self, status: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

        do_GET = do_POST = do_DELETE = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def _nodes(workflow: str, task: str, state: str, log: str | None) -> dict[str, Node]:
    """A task as 2.17's install has it: its driver, then retry node, DAG, retry node, pod; an id is a path's hash."""

    def key(path: str) -> str:
        return f"{workflow}-{uuid.uuid5(uuid.NAMESPACE_OID, path).int % 10**10}"

    driver, path = f"{task}-driver", f"{task}.executor"
    return {
        key(driver): Node(driver, [key(f"{driver}(0)")]),
        key(f"{driver}(0)"): Node(f"{driver}(0)", [key(task)], log="driver\n"),
        key(task): Node(task, [key(f"{task}(0)")], state),
        key(f"{task}(0)"): Node(f"{task}(0)", [key(path)], state),
        key(path): Node("executor", [key(f"{path}(0)")], state),
        key(f"{path}(0)"): Node("executor(0)", [], state, log),
    }


def _find_log(nodes: dict[str, Node], node_id: str, depth: int) -> str | None:
    """As the API server looks for a node's artifact: in the node, and three levels below it."""
    node = nodes.get(node_id)
    if node is None or node.log is not None or depth == 0:
        return node.log if node else None
    return next((log for child in node.children if (log := _find_log(nodes, child, depth - 1)) is not None), None)


def _detail(run_id: str, node: Node) -> kfp.V2beta1PipelineTaskDetail:
    return kfp.V2beta1PipelineTaskDetail(
        run_id=run_id,
        task_id=_id(),
        display_name=node.name,
        create_time=node.begun,
        start_time=node.begun,
        end_time=ZERO if node.state == "RUNNING" else node.ended,
        state=node.state,
        child_tasks=[kfp.PipelineTaskDetailChildTask(pod_name=child) for child in node.children] or None,
    )


def _filtered(found: dict[str, Any], query: dict[str, str]) -> list[Any]:
    predicates = json.loads(query.get("filter") or "{}").get("predicates", [])
    if any(predicate["operation"] != 1 for predicate in predicates):
        raise Refusal(400, "only EQUALS is known here")
    return [
        item
        for item in found.values()
        if all(getattr(item, predicate["key"]) == predicate["stringValue"] for predicate in predicates)
    ]


def _unused(found: dict[str, Any], name: str) -> None:
    if any(item.display_name == name for item in found.values()):
        raise Refusal(409, f"The name {name} already exists. Please specify a new name")


def _id() -> str:
    return str(uuid.uuid4())


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
