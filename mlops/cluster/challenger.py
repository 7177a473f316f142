"""Whether an experiment's challenger has pods on a cluster: the automatic stop of a harmful one takes them away."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from matchmaking.base.errors import InputError
from mlops.cluster.capacity import PLATFORM
from mlops.cluster.deployments import FETCH, SERVED, experiment_of
from mlops.cluster.kubectl import Kubectl


def tell_challenger(kubectl: Kubectl, deployment: str, experiment: str) -> str:
    """What people have to know of the challenger's pods before a gateway.yaml is applied, and what is to be done.

    Args:
        kubectl: of the cluster.
        deployment: the challenger's.
        experiment: that the gateway.yaml is of.

    Raises:
        MlopsError: kubectl isn't there, or can't reach the cluster.
    """
    text = kubectl("get", "deployment", deployment, "--namespace", PLATFORM, "--ignore-not-found", "--output=json")
    return challenger_line(json.loads(text) if text.strip() else None, deployment, experiment)


def challenger_line(found: Mapping[str, Any] | None, deployment: str, experiment: str) -> str:
    """The same, of the Deployment as the API has it; None where there is none."""
    what = f"{PLATFORM}/{deployment}"
    if found is None:
        return f"{what} isn't there yet: it comes with one pod, once this is applied"
    serves, pods = _serves(found), found["spec"].get("replicas", 1)
    if pods:
        whose = f" of {serves}" if serves else ""
        return f"{what} has {pods} pod{'s' if pods > 1 else ''}{whose}"
    back = f"`kubectl scale deployment/{deployment} --replicas=1 -n {PLATFORM}`"
    none = f"{what} has NO PODS: it was scaled to 0, as the automatic stop does with a harmful challenger"
    if serves == experiment:
        return (
            f"{none}, under {experiment}: the champion answers for it, and each of its clients' requests counts as a "
            f"failure. What comes now is another experiment: a gateway.yaml of another name, applied, and then {back}"
        )
    return f"{none}, under {serves or 'an experiment that it does not name'}. Apply this first, and then: {back}"


def _serves(found: Mapping[str, Any]) -> str:
    """The experiment whose challenger it is; empty where it doesn't say."""
    containers = found["spec"]["template"]["spec"].get("initContainers") or []
    for one in (one for each in containers if each["name"] == FETCH for one in each.get("env") or []):
        if one["name"] == SERVED and one.get("value"):
            with contextlib.suppress(InputError):
                return experiment_of(one["value"])
    return ""
