"""Uploading pipelines to Kubeflow Pipelines, and starting runs there."""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import kfp_server_api as kfp

from matchmaking.base.errors import InputError
from matchmaking.base.settings import EXPERIMENT, kfp_run_url, package_version
from matchmaking.tracking import now
from mlops.kubeflow.kfp_api import Server, ServerError, UnsureError
from pipelines import PIPELINES
from pipelines.compile import compile_pipeline
from pipelines.pods import EXPERIMENT_ACCOUNT, PROMOTION_ACCOUNT

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
    return {"promote": PROMOTION_ACCOUNT, "experiment": EXPERIMENT_ACCOUNT}.get(pipeline)


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


def titles_of(server: Server, run: Any) -> dict[str, str]:
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
