"""What a step carries in a cluster: settings and secrets, resources, a time limit, retries, caching, a name for people.

All of it is for the compiled pipeline: `kfp.local` passes over what it can't do, and would try failed steps again, so
retries are put in while a pipeline is compiled and a local run is the same without all this. The ConfigMap and the
Secrets are those of `manifests/`; a compiled pipeline holds their names, never a value.

Each step is told what it needs and nothing else. All talk to MLflow: the first opens the run, the last closes it, and
one that fails says why. Where people open the UIs, for links, the first step records with the run and the others read
there, as a pod's environment stands in the Workflow many times. Only the steps that read or write datasets, candidates
or production are given storage credentials, and only `promote` those that may write production. (What passes from step
to step, KFP's own launcher carries, with KFP's own credentials.)

Retries are for pods that were deleted (with their node, say), not for steps that failed, were evicted or took too
long. A step waits out an outage of MLflow or the storage by itself, about a minute, and then its failure is final: KFP
2.17's install has Argo retry on errors of the cluster alone (`retryPolicy: OnError` in the controller's
`templateDefaults`, which completes what `set_retry` gives). Where a controller is set up to retry failures too,
`matchmaking.tracking.step` ends the next attempt at once.

Caching is on for what is a function of its inputs, and off for what reads or writes the world. The key KFP makes holds
the image, the command, the MLflow run and the identity of each input artifact, so a hit can only be the very same
work, within one run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipelines.memory import DEFAULT, NEEDS

SETTINGS = "mlops-settings"
PIPELINE_SECRET = "mlops-pipeline"
PROMOTION_SECRET = "mlops-promotion"
NOTIFY_SECRET = "mlops-notify"
NOTIFY_KEY = "urls"
# a service account of its own: the promotion's pods may restart the service
PROMOTION_ACCOUNT = "mlops-promotion"
# and another one: the pods of `experiment` may end a challenger's traffic
EXPERIMENT_ACCOUNT = "mlops-experiment"
# as in docker/base.Dockerfile
USER = 10001

TRACKING = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
STORAGE = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
TRACKING_SETTINGS = ("MLFLOW_TRACKING_URI",)
LINK_SETTINGS = ("MLOPS_KFP_URL", "MLOPS_MLFLOW_URL")
STORAGE_SETTINGS = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
# the pipelines whose runs say something of a state; a retraining is an event
LOOKING = ("evaluate", "monitor", "observe", "experiment")
POLICY_SETTINGS = ("MLOPS_POLICY",)
RESTART_SETTINGS = ("MLOPS_RESTART_COMMAND", "MLOPS_RESTART_TIMEOUT")
STOP_SETTINGS = ("MLOPS_EXPERIMENT_STOP_COMMAND",)

RETRIES = 2
# seconds; a failure that isn't tried again waits for it too
RETRY_WAIT = 5
# seconds an attempt may wait for a node, beside its time limit, and its loss may take to be noticed
RETRY_ROOM = 3600


@dataclass(frozen=True)
class Pod:
    """What one kind of step gets.

    Attributes:
        title: what people read in the UI.
        storage: whether it reads or writes datasets, candidates or production.
        links: whether it is told where people open the UIs: who opens the MLflow run records it there, and a promotion
            tells of itself without asking.
        policy: whether it is told the installation's policy, as it looks at alerts; in `LOOKING` alone.
        pure: whether its outputs depend on its inputs alone.
        cpu, cpu_limit: the request, and the limit.
        memory, memory_limit: the same, of a step that doesn't grow with the data (see `pipelines.memory` for those that
            do).
        seconds: the time it may take, from the start of its pod.
    """

    title: str
    storage: bool = False
    links: bool = False
    policy: bool = False
    pure: bool = False
    cpu: str = "200m"
    cpu_limit: str = "1"
    memory: str = "384Mi"
    memory_limit: str = "768Mi"
    seconds: int = 1800


# by component; those without growth peak at 108 to 285 MB, to which KFP's launcher adds some 60
PODS = {
    "ingest": Pod("Fetch dataset and production", storage=True, links=True),
    "validate": Pod("Check the dataset", pure=True),
    "split": Pod("Split off held-out pairs", pure=True),
    "train": Pod("Train a candidate", pure=True, cpu="1", cpu_limit="2", seconds=7200),
    "trial": Pod("Try recipes out of fold", pure=True, cpu="1", cpu_limit="2", seconds=7200),
    "choose": Pod("Choose a recipe"),
    "evaluate": Pod("Measure on held-out pairs", pure=True, cpu="500m", cpu_limit="2"),
    "compare": Pod("Decide whether it is better", pure=True),
    "plan": Pod("Divide parts and fetch the model", storage=True, links=True),
    "shard": Pod("Check and score some parts", storage=True, cpu="500m", cpu_limit="2", seconds=7200),
    "merge": Pod("Add up what the parts hold", pure=True, cpu="500m"),
    "divide": Pod("Divide parts and fetch the model", storage=True, links=True),
    "draw": Pod("Check and draw from some parts", storage=True, cpu="500m", cpu_limit="2", seconds=7200),
    "pool": Pod("Add up what the parts hold", pure=True, cpu="500m"),
    "score": Pod("Score with production", pure=True, cpu="500m", cpu_limit="2"),
    "drift": Pod("Look for drift", pure=True, cpu="500m"),
    "collect": Pod("Fetch logs and production", storage=True, links=True),
    "observe": Pod("Measure and estimate each window", cpu="500m", cpu_limit="2", policy=True, seconds=7200),
    "gather": Pod("Fetch definition and logs", storage=True, links=True, seconds=7200),
    "experiment": Pod("Read the experiment", pure=True, cpu="500m", seconds=7200),
    "report": Pod("Write the report", storage=True, policy=True),
    "check": Pod("Check the package's evidence", storage=True, links=True),
    "promote": Pod("Put it into production", storage=True, links=True),
}


def equip(memory: Any = None) -> None:
    """Gives every task of the pipeline that is being defined what its step carries; the pipeline's last line.

    Args:
        memory: the pipeline's parameter for the memory of the steps that grow with the data; None where it has none.
    """
    from kfp.dsl.pipeline_context import Pipeline

    pipeline = Pipeline.get_default_pipeline()
    for task in pipeline.tasks.values():
        _equip(task, task.component_spec.name, memory, pipeline.name)


def memory_limit(task: str, arguments: Mapping[str, Any]) -> str:
    """The memory limit of a step in a run with these arguments; empty for a task that is none of ours."""
    component = _kind(task)
    if component not in PODS:
        return ""
    return str(arguments.get("memory") or DEFAULT) if component in NEEDS else PODS[component].memory_limit


def _equip(task: Any, component: str, memory: Any, pipeline: str) -> None:
    from kfp import kubernetes

    pod = PODS[component]
    # to name its caller in a message that none of ours gets, kfp reads the sources of the whole stack at each setting,
    # which took 3 s of processor time wherever the pipelines are imported
    assert task.container_spec is not None
    task._ensure_container_spec_exists = _none_to_check
    # request and limit are the same: what was found out to be needed is there, whatever else is on the node
    request, limit = (memory, memory) if component in NEEDS else (pod.memory, pod.memory_limit)
    secret = PROMOTION_SECRET if component == "promote" else PIPELINE_SECRET
    kubernetes.use_config_map_as_env(task, SETTINGS, _same([*TRACKING_SETTINGS, *(STORAGE_SETTINGS * pod.storage)]))
    if pod.links:
        kubernetes.use_config_map_as_env(task, SETTINGS, _same(LINK_SETTINGS), optional=True)
    if pod.policy and pipeline in LOOKING:
        kubernetes.use_config_map_as_env(task, SETTINGS, _same(POLICY_SETTINGS), optional=True)
    kubernetes.use_secret_as_env(task, secret, _same([*TRACKING, *(STORAGE * pod.storage)]))
    kubernetes.use_secret_as_env(task, NOTIFY_SECRET, {NOTIFY_KEY: "MLOPS_NOTIFY_URLS"}, optional=True)
    if component == "promote":
        kubernetes.use_config_map_as_env(task, SETTINGS, _same(RESTART_SETTINGS), optional=True)
    if (pipeline, component) == ("experiment", "report"):
        kubernetes.use_config_map_as_env(task, SETTINGS, _same(STOP_SETTINGS), optional=True)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.set_timeout(task, pod.seconds)
    task.set_cpu_request(pod.cpu).set_cpu_limit(pod.cpu_limit)
    task.set_memory_request(request).set_memory_limit(limit)
    if component in NEEDS:
        # else KFP's compiler doesn't hand it into a group of tasks, and a run would end at its first step
        task._channel_inputs.append(memory)
    task.set_caching_options(pod.pure)
    if not task._task_spec.display_name:
        task.set_display_name(pod.title)


def _none_to_check() -> None:
    """Each of our tasks is a step with a container, which is all that is checked in this one's place."""


def retry_until(seconds: int) -> int:
    """The seconds from the first attempt's start in which a step with this time limit is retried.

    Argo starts no attempt later, and ends one that still runs then. So all of them fit in, each as long as it may be.
    """
    return (RETRIES + 1) * (seconds + RETRY_ROOM)


@contextmanager
def retried(pipeline: Any) -> Iterator[None]:
    """For as long as it lasts, the steps of a pipeline are retried."""
    spec = pipeline.pipeline_spec
    dags = [spec.root.dag, *(each.dag for each in spec.components.values())]
    # KFP numbers the components of a name from the second on
    kinds = {name: _kind(name.removeprefix("comp-")) for name, each in spec.components.items() if each.executor_label}
    tasks = [task for dag in dags for task in dag.tasks.values() if task.component_ref.name in kinds]
    for task in tasks:
        task.retry_policy.max_retry_count = RETRIES
        task.retry_policy.backoff_duration.seconds = RETRY_WAIT
        task.retry_policy.backoff_factor = 2
        task.retry_policy.backoff_max_duration.seconds = retry_until(PODS[kinds[task.component_ref.name]].seconds)
    try:
        yield
    finally:
        for task in tasks:
            task.ClearField("retry_policy")


def _kind(name: str) -> str:
    """The component of a task's or a component's name in a pipeline."""
    return re.sub(r"-\d+$", "", name)


def _same(names: Iterable[str]) -> dict[str, str]:
    """Keys of a ConfigMap or Secret that are called as the environment variables are."""
    return {name: name for name in names}
