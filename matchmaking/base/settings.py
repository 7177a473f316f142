"""The one place for settings: what an installation may set, by environment variable, and what it gets otherwise."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

EXPERIMENT = "LegalAid_Connect_Matchmaking"
PACKAGE = "legalaid-mlops"
# of scikit-learn and Keras; KFP's numbers are doubles, which hold each of these
MAX_SEED = 2**32 - 1
# where a cluster keeps what pipelines read and write; as in manifests/
DATA_URI = "s3://datasets/pairs.csv"
PRODUCTION_URI = "s3://production"
CANDIDATES_URI = "s3://candidates"
PREDICTIONS_URI = "s3://datasets/logs/predictions"
OUTCOMES_URI = "s3://datasets/logs/outcomes"
# of an experiment: the gateway's log, and what the backend knows of it
EXPOSURES_URI = "s3://exposures"
EXPERIMENT_OUTCOMES_URI = "s3://datasets/logs/experiment/outcomes"
EXPERIMENT_PAIRS_URI = "s3://datasets/logs/experiment/pairs"
EXPERIMENT_STOP_SECONDS = 300.0


@cache
def package_version() -> str:
    """The installed version of this project; "0" in a source tree that isn't installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "0"


def image(kind: str) -> str:
    """The full name of one of our images: `kind` is base, trainer, monitor or client.

    MLOPS_REGISTRY and MLOPS_TAG set the registry and the tag; the tag is the package's version otherwise.
    """
    registry = os.environ.get("MLOPS_REGISTRY", "legalaid")
    return f"{registry}/mlops-{kind}:{os.environ.get('MLOPS_TAG') or package_version()}"


@cache
def code_version() -> str:
    """The git commit this code is at ("-dirty" with local changes), or the package version outside a checkout.

    Images carry it as MLOPS_CODE_VERSION.
    """
    if given := os.environ.get("MLOPS_CODE_VERSION"):
        return given
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return package_version()
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return package_version()


def tracking_uri(work_dir: Path) -> str:
    """Where MLflow records go: MLFLOW_TRACKING_URI, or a SQLite file in the work folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{work_dir.resolve() / 'mlflow.db'}"


def restart_command() -> str:
    """MLOPS_RESTART_COMMAND: the command line, run without a shell, that restarts the service; empty for none."""
    return os.environ.get("MLOPS_RESTART_COMMAND", "").strip()


def restart_timeout() -> float:
    """MLOPS_RESTART_TIMEOUT: the seconds the restart may take."""
    return float(os.environ.get("MLOPS_RESTART_TIMEOUT", "300"))


def experiment_stop_command() -> str:
    """MLOPS_EXPERIMENT_STOP_COMMAND: the command line, run without a shell, that ends an experiment's traffic.

    It may take `EXPERIMENT_STOP_SECONDS`.
    """
    return os.environ.get("MLOPS_EXPERIMENT_STOP_COMMAND", "").strip()


def experiment_stop_outside() -> bool:
    """MLOPS_EXPERIMENT_STOP_OUTSIDE: a step in a container is told that the process which began its run stops."""
    return bool(os.environ.get("MLOPS_EXPERIMENT_STOP_OUTSIDE"))


def kfp_host() -> str:
    """MLOPS_KFP_HOST: the address of Kubeflow Pipelines' API server, or of its UI, which passes the API on."""
    return os.environ.get("MLOPS_KFP_HOST") or "http://localhost:8080"


def kfp_url(known: str = "") -> str:
    """MLOPS_KFP_URL: the address at which people open Kubeflow Pipelines' UI; otherwise `known`, or `make open`'s."""
    return (os.environ.get("MLOPS_KFP_URL") or known or "http://localhost:8080").rstrip("/")


def kfp_run_url(run_id: str, known: str = "") -> str:
    """The page of a run in Kubeflow Pipelines' UI."""
    return f"{kfp_url(known)}/#/runs/details/{run_id}"


def mlflow_url(known: str = "") -> str:
    """MLOPS_MLFLOW_URL: the address at which people open MLflow's UI; otherwise `known`, or `make open`'s."""
    return (os.environ.get("MLOPS_MLFLOW_URL") or known or "http://localhost:5001").rstrip("/")


def mlflow_run_url(run_id: str, known: str = "") -> str:
    """The page of a run in MLflow's UI."""
    return f"{mlflow_url(known)}/#/runs/{run_id}"


# what docs/reference.md says of them: meaning, and what holds where they aren't set
VARIABLES = {
    "MLFLOW_TRACKING_URI": ("where runs are recorded", "SQLite in the work folder"),
    "MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD": ("who records them, on a server that asks", "nobody"),
    "MLOPS_KFP_HOST": (
        "address of Kubeflow Pipelines' API server, or of its UI, which passes the API on",
        "http://localhost:8080",
    ),
    "MLOPS_KFP_URL": (
        "the address at which people open the Kubeflow Pipelines UI, for links",
        "MLOPS_KFP_HOST; in the cluster's pods what `make open` gives, http://localhost:8080",
    ),
    "MLOPS_MLFLOW_URL": (
        "the address at which people open the MLflow UI, for links",
        "what `make open` and `make ui` give, http://localhost:5001",
    ),
    "MLOPS_RUN_NAME": ("name of the run that `mlops submit` starts, or follows where it is there", "a new one"),
    "MLOPS_NODE_MEMORY": (
        "what the largest node of the cluster has for pods, as in 16Gi: `mlops submit` refuses what asks for more",
        "not known; `make submit` and the CronJobs are told",
    ),
    "MLOPS_CURRENT": (
        "the data of now that `mlops submit monitor` and `mlops schedule apply` compare the dataset with",
        "none: a sample of the dataset with the rest of it",
    ),
    "MLOPS_REGISTRY": ("registry of the images that compiled pipelines name", "legalaid"),
    "MLOPS_TAG": ("tag of these images", "the package's version"),
    "MLOPS_CODE_VERSION": ("the commit that runs record", "asked of git; images carry it"),
    "MLOPS_DATA_REVISION": ("the git revision of the dataset that runs record", "set by `--data-rev`"),
    "MLOPS_RESTART_COMMAND": ("command line, run without a shell, that restarts the service after a promotion", "none"),
    "MLOPS_RESTART_TIMEOUT": ("seconds it may take", "300"),
    "MLOPS_EXPERIMENT_STOP_OUTSIDE": (
        "not for people: a step in a container is told that the process that began its run has the stop command",
        "unset",
    ),
    "MLOPS_EXPERIMENT_STOP_COMMAND": (
        "command line, run without a shell, that gives everybody the champion again when a guardrail has shown that an "
        "experiment's challenger does harm; `{experiment}` in it is the experiment's name, 300 seconds it may take",
        "none: people are told, and traffic goes on",
    ),
    "MLOPS_POLICY": (
        "the policy (YAML) that alerts go by, and the limits past which production is degraded; `mlops run --policy` "
        "sets it for its steps, in a cluster the ConfigMap `mlops-settings` does",
        "the default policy",
    ),
    "MLOPS_NOTIFY_URLS": (
        "apprise URLs, separated by white space, that hear of alerts, improved candidates, promotions, "
        "rollbacks, rejected candidates, verdicts of experiments and failed runs; `pager=URL` has a tag, and hears the "
        "alerts alone that the policy sends "
        "there",
        "nobody",
    ),
    "MLOPS_NOTIFY_URLS_FILE": ("a file of such URLs, one a line", "none"),
    "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, ...": ("S3, as boto3 reads them", "boto3's own"),
    "GOOGLE_APPLICATION_CREDENTIALS, STORAGE_EMULATOR_HOST": ("GCS, as google-cloud-storage reads them", "its own"),
    "LEGALAID_DIR": ("where the tests find the real data", "../shared/legalaid"),
}
