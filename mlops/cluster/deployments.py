"""What pods change of Deployments, by their service accounts: restart one, and end a challenger's pods."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.escape import say

POLL_SECONDS = 2.0
# of the challenger's pods: what fetches its model, and the text of gateway.yaml, which says whose challenger it is
FETCH, SERVED = "fetch", "EXPERIMENT_SERVED"
# what the API answers
GONE, CONFLICT, TOO_MANY, FAULTS = 404, 409, 429, 500
# the way out for people, where a challenger can't be ended
WAY_OUT = "`kubectl set env deployment/experiment-gateway EXPERIMENT_MODE=off -n {}` gives everybody the champion again"


def restart(namespace: str, deployment: str, seconds: float) -> None:
    """Restarts a Deployment, and waits until its new pods serve.

    Args:
        namespace: the Deployment's.
        deployment: its name.
        seconds: how long it may take, of which some are left for whoever waits for this.

    Raises:
        MlopsError: this is no pod, the API refuses or can't be reached, or the new pods don't serve in time.
    """
    from kubernetes import client

    annotations = {"kubectl.kubernetes.io/restartedAt": datetime.now(UTC).isoformat(timespec="seconds")}
    change = {"spec": {"template": {"metadata": {"annotations": annotations}}}}
    what = f"{namespace}/{deployment}"
    with asking(f"{what} can't be restarted"):
        apps = client.AppsV1Api()
        changed: Any = apps.patch_namespaced_deployment(deployment, namespace, change)
        generation = changed.metadata.generation
        deadline = time.monotonic() + seconds - 2 * POLL_SECONDS
        while time.monotonic() < deadline:
            found: Any = apps.read_namespaced_deployment(deployment, namespace)
            wanted, status = found.spec.replicas, found.status
            new = (status.observed_generation or 0) >= generation and (status.updated_replicas or 0) == wanted
            if new and (status.available_replicas or 0) == wanted and (status.replicas or 0) == wanted:
                say(f"{what} was restarted")
                return
            time.sleep(POLL_SECONDS)
    raise MlopsError(f"{what} was restarted, but doesn't serve yet; `kubectl describe` says why")


def end_challenger(namespace: str, deployment: str, experiment: str, seconds: float) -> None:
    """Scales an experiment's challenger to nothing, and waits until it has no pods any more.

    Where there is no such Deployment, or it is another experiment's by now, nothing is changed; of the latter the pods
    from before are waited for, which may be this experiment's.

    Args:
        namespace: the Deployment's.
        deployment: its name.
        experiment: whose challenger is to be ended.
        seconds: how long it may take, of which some are left for whoever waits for this.

    Raises:
        InputError: the Deployment doesn't say whose challenger it is.
        MlopsError: this is no pod, the API refuses or can't be reached, or there are pods still after that time.
    """
    from kubernetes import client
    from kubernetes.client.rest import ApiException

    what, way_out, refused = f"{namespace}/{deployment}", WAY_OUT.format(namespace), ""
    with asking(f"{what} can't be stopped for {experiment}"):
        apps = client.AppsV1Api()
        deadline = time.monotonic() + seconds - 2 * POLL_SECONDS
        while time.monotonic() < deadline:
            try:
                found: Any = apps.read_namespaced_deployment(deployment, namespace)
                serves, refused = _served_by(found), ""
                if serves == experiment and found.spec.replicas != 0:
                    # as it was looked at, or not at all: it may have become another experiment's meanwhile
                    looked_at = {"resourceVersion": found.metadata.resource_version}
                    change = {"metadata": looked_at, "spec": {"replicas": 0}}
                    apps.patch_namespaced_deployment_scale(deployment, namespace, change)
                    continue
            except ApiException as error:
                if error.status == GONE:
                    say(f"{what} isn't there: nobody is served by it")
                    return
                # an API server that is busy, or starts again, answers later
                if error.status not in (CONFLICT, TOO_MANY) and (error.status or 0) < FAULTS:
                    raise
                refused = str(error.reason)
                time.sleep(POLL_SECONDS)
                continue
            except InputError as error:
                raise InputError(f"{error}; {way_out}") from None
            status, pods = found.status, found.spec.template.spec
            theirs = (status.updated_replicas or 0) if serves != experiment else 0
            if (status.observed_generation or 0) >= found.metadata.generation and (status.replicas or 0) == theirs:
                # those that are about to end aren't counted, and may answer until they have
                time.sleep(max(0.0, min(pods.termination_grace_period_seconds, deadline - time.monotonic())))
                say(
                    f"{what} has no pods any more: the gateway answers for {experiment} from the champion"
                    if serves == experiment
                    else f"{what} is {serves}'s by now, and {experiment} isn't served there: nothing was changed"
                )
                return
            time.sleep(POLL_SECONDS)
    if refused:
        raise MlopsError(f"{what} can't be stopped for {experiment}: {refused}; {way_out}")
    raise MlopsError(f"{what} still has pods of {experiment}; `kubectl describe` says why, and {way_out}")


def _served_by(deployment: Any) -> str:
    """The experiment whose challenger a Deployment is.

    Raises:
        InputError: it doesn't say.
    """
    fetch = [each for each in deployment.spec.template.spec.init_containers or [] if each.name == FETCH]
    said = [one.value for each in fetch for one in each.env or [] if one.name == SERVED and one.value]
    if not said:
        raise InputError(f"the Deployment {deployment.metadata.name} doesn't say whose challenger it is ({SERVED})")
    return experiment_of(said[0])


def experiment_of(text: str) -> str:
    """The experiment that a gateway.yaml's text is about.

    Raises:
        InputError: it is no such text.
    """
    import yaml

    from matchmaking.experiments.gateway import Gateway

    try:
        return Gateway.model_validate(yaml.safe_load(text)).experiment
    except (yaml.YAMLError, ValueError):
        raise InputError(f"{SERVED} is no text of a gateway.yaml") from None


@contextlib.contextmanager
def asking(failing: str) -> Iterator[None]:
    """Asks the Kubernetes API as this pod's service account.

    Args:
        failing: what isn't done where the API refuses or can't be reached.

    Raises:
        MlopsError: that, or this is no pod.
    """
    from kubernetes import config
    from kubernetes.client.rest import ApiException
    from urllib3.exceptions import HTTPError

    try:
        config.load_incluster_config()
        yield
    except config.ConfigException as error:
        raise MlopsError(f"this is no pod with a service account: {error}") from error
    except (ApiException, HTTPError) as error:
        reason = error.reason if isinstance(error, ApiException) else error
        raise MlopsError(f"{failing}: {reason}") from error
