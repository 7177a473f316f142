"""Runs in the pod `setup-mlflow`, as MLflow's administrator: the users, and what each may do."""

import os
import sys
import time

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

EXPERIMENT = "LegalAid_Connect_Matchmaking"
MODEL = "lawyer-match"
# of the experiment and of the model; MANAGE where something is taken back: a run opened twice, an alias
GRANTS = {
    "pipeline": ("MANAGE", "EDIT"),
    "promotion": ("EDIT", "MANAGE"),
    "seed": ("MANAGE", "MANAGE"),
    "dashboard": ("READ", "READ"),
}

uri = os.environ["MLFLOW_TRACKING_URI"]
for _ in range(100):
    try:
        if requests.get(f"{uri}/health", timeout=5).ok:
            break
    except requests.RequestException:
        pass
    time.sleep(3)
else:
    sys.exit(f"MLflow doesn't answer at {uri}")

auth = get_app_client("basic-auth", tracking_uri=uri)
client = MlflowClient(uri)

found = client.get_experiment_by_name(EXPERIMENT)
experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
try:
    client.create_registered_model(MODEL)
except MlflowException as error:
    if error.error_code != "RESOURCE_ALREADY_EXISTS":
        raise


def known(user: str) -> bool:
    """Whether MLflow has this user."""
    try:
        auth.get_user(user)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


for role, (on_experiment, on_model) in GRANTS.items():
    name, password = os.environ[f"{role.upper()}_USERNAME"], os.environ[f"{role.upper()}_PASSWORD"]
    # asked first: an insertion that fails is in the database's log, with what was to be inserted
    if known(name):
        auth.update_user_password(name, password)
    else:
        auth.create_user(name, password)
    for kind, what, permission in (("experiment", experiment, on_experiment), ("registered_model", MODEL, on_model)):
        try:
            auth.grant_user_permission(name, kind, what, permission)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            auth.revoke_user_permission(name, kind, what)
            auth.grant_user_permission(name, kind, what, permission)
    print(f"user {name}: {on_experiment} on the experiment, {on_model} on the model", flush=True)
