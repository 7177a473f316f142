"""The Secrets of an installation, made once."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping

from mlops.cluster.capacity import KFP, PLATFORM
from mlops.cluster.kubectl import NAME, NAMESPACES, Kubectl

SEED = "seed"


def make_secrets(kubectl: Kubectl) -> list[str]:
    """Makes the Secrets that aren't there; what is there stays, so that nothing is rotated unasked.

    The platform's namespace has all of them; those that steps and KFP need are copied from there to theirs.

    Returns:
        The Deployments in KFP's namespace that run with a copy of before.
    """
    kept = {namespace: secrets_of(kubectl, namespace) for namespace in NAMESPACES}
    new = {name: value for name, value in _wanted().items() if name not in kept[PLATFORM]}
    _put(kubectl, PLATFORM, new)
    have = kept[PLATFORM] | new
    if "mysql-secret" not in kept[KFP]:
        _put(kubectl, KFP, {"mysql-secret": {"username": "root", "password": _password()}})
    store = have["identity-kfp"]
    copies = {
        "mlpipeline-minio-artifact": {
            "accesskey": store["AWS_ACCESS_KEY_ID"],
            "secretkey": store["AWS_SECRET_ACCESS_KEY"],
        },
        "mlops-pipeline": have["identity-pipeline"],
        "mlops-promotion": have["identity-promotion"],
    }
    differing = {name: value for name, value in copies.items() if kept[KFP].get(name) != value}
    _put(kubectl, KFP, differing)
    changed = "mlpipeline-minio-artifact" in differing and "mlpipeline-minio-artifact" in kept[KFP]
    # SeaweedFS's own pod reads the keys too, where it is the store
    return ["seaweedfs", "ml-pipeline", "ml-pipeline-ui"] if changed else []


def _wanted() -> dict[str, dict[str, str]]:
    """All Secrets of the platform's namespace, with new values."""
    wanted = {
        "minio-root": {"user": "root-" + secrets.token_hex(4), "password": _password()},
        "postgres": {"password": _password()},
        "mlflow-admin": {"username": "admin", "password": _password(), "flask-secret-key": _password()},
    }
    for role in ("kfp", "mlflow", "pipeline", "promotion", "seed", "serving", "experiment"):
        wanted[f"identity-{role}"] = {"AWS_ACCESS_KEY_ID": f"mlops-{role}", "AWS_SECRET_ACCESS_KEY": _password()}
    # the dashboard reads MLflow, and no bucket
    for role in ("pipeline", "promotion", "seed", "dashboard"):
        names = {"MLFLOW_TRACKING_USERNAME": role, "MLFLOW_TRACKING_PASSWORD": _password()}
        wanted[f"identity-{role}"] = wanted.get(f"identity-{role}", {}) | names
    return wanted


def _password() -> str:
    # hexadecimal: it goes into URLs and shells; 40 digits are the most that MinIO takes
    return secrets.token_hex(20)


def secrets_of(kubectl: Kubectl, namespace: str) -> dict[str, dict[str, str]]:
    return {
        found["metadata"]["name"]: {
            key: base64.b64decode(value).decode(errors="replace") for key, value in found["data"].items()
        }
        for found in kubectl.items("secrets", namespace)
        if found.get("type") == "Opaque" and found.get("data")
    }


def _put(kubectl: Kubectl, namespace: str, values: Mapping[str, Mapping[str, str]]) -> None:
    """Writes Secrets; the values go through stdin, as the arguments of a process can be seen."""
    objects = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/part-of": NAME}},
            "type": "Opaque",
            "stringData": dict(value),
        }
        for name, value in values.items()
    ]
    if objects:
        kubectl.apply(objects)
