"""The manifests' identities: Secrets, rights in the cluster, and the buckets each may read and write."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from mlops.cluster import secrets
from mlops.cluster.capacity import KFP, PLATFORM
from pipelines import pods as step_pods
from tests.manifests.conftest import (
    BUCKETS,
    MANIFESTS,
    RIGHTS,
    ROOT,
    WRITE,
    Build,
    Object,
    _key,
    containers,
    named,
    pods,
    with_serving,
)

# ---------------------------------------------------------------------------------------------- security


def test_no_secret_is_written_down(objects: list[Object]) -> None:
    assert not [each for each in objects if each["kind"] == "Secret"]
    for _, name, pod in pods(objects):
        for container in containers(pod):
            for variable in container.get("env", []):
                if re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY", variable["name"]):
                    assert "secretKeyRef" in variable.get("valueFrom", {}), f"{name}: {variable['name']}"
    for path in MANIFESTS.rglob("*"):
        if path.is_file():
            assert not re.search(r"minio123|minioadmin|password\s*[:=]\s*[\"']?\w{6}(?!.*\})", path.read_text()), path


def test_secrets_are_made_once_and_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a kubectl that holds them in memory."""
    import base64

    class Memory:
        def __init__(self) -> None:
            self.kept: dict[tuple[str, str], dict[str, str]] = {}
            self.applied: list[str] = []

        def items(self, kind: str, namespace: str) -> list[Object]:
            return [
                {
                    "metadata": {"name": name},
                    "type": "Opaque",
                    "data": {key: base64.b64encode(text.encode()).decode() for key, text in value.items()},
                }
                for (place, name), value in self.kept.items()
                if place == namespace
            ]

        def apply(self, objects: list[Object]) -> None:
            for each in objects:
                self.kept[each["metadata"]["namespace"], each["metadata"]["name"]] = each["stringData"]
                self.applied.append(each["metadata"]["name"])

    memory = Memory()
    assert secrets.make_secrets(memory) == []  # type: ignore[arg-type]
    first = dict(memory.kept)
    assert memory.kept[KFP, "mlops-pipeline"] == memory.kept[PLATFORM, "identity-pipeline"]
    passwords = [value for secret in first.values() for key, value in secret.items() if len(value) == 40]
    # the copies are three, of six values
    assert len(passwords) == len(set(passwords)) + 5
    memory.applied.clear()
    assert secrets.make_secrets(memory) == []  # type: ignore[arg-type]
    assert memory.applied == [] and memory.kept == first
    # an install that KFP's own manifests made has a password that everybody knows
    memory.kept[KFP, "mlpipeline-minio-artifact"] = {"accesskey": "minio", "secretkey": "minio123"}
    assert secrets.make_secrets(memory) == ["seaweedfs", "ml-pipeline", "ml-pipeline-ui"]  # type: ignore[arg-type]
    assert memory.kept == first
    # deleted on purpose, an identity is made anew, and so is its copy
    del memory.kept[PLATFORM, "identity-promotion"]
    secrets.make_secrets(memory)  # type: ignore[arg-type]
    assert memory.kept[KFP, "mlops-promotion"] != first[KFP, "mlops-promotion"]
    assert memory.kept[KFP, "mlops-promotion"] == memory.kept[PLATFORM, "identity-promotion"]


def test_the_dashboard_reads_mlflow_and_nothing_else(objects: list[Object]) -> None:
    pod = named(objects, "Deployment", "dashboard", PLATFORM)["spec"]["template"]["spec"]
    used = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for container in pod["containers"]
        for variable in container["env"]
        if "valueFrom" in variable
    }
    assert used == {"identity-dashboard"} and pod["automountServiceAccountToken"] is False
    users = (MANIFESTS / "platform/core/users.py").read_text()
    assert '"dashboard": ("READ", "READ")' in users
    assert set(secrets._wanted()["identity-dashboard"]) == {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}


STEP_ACCOUNTS = {"pipeline-runner", step_pods.PROMOTION_ACCOUNT, step_pods.EXPERIMENT_ACCOUNT}


def test_steps_cannot_borrow_the_promotions_credentials(objects: list[Object]) -> None:
    """Upstream lets step pods read all Secrets of their namespace, and start pods that would mount them."""
    rules = named(objects, "Role", "pipeline-runner", KFP)["rules"]
    for rule in rules:
        assert "*" not in rule["verbs"] and "*" not in rule["resources"]
        if "secrets" in rule["resources"]:
            assert rule["resourceNames"] == ["mlpipeline-minio-artifact"] and rule["verbs"] == ["get"]
        if {"create", "patch", "update", "delete"} & set(rule["verbs"]):
            assert rule["resources"] == ["workflowtaskresults"]
    bound = [
        each["metadata"]["name"]
        for each in objects
        if each["kind"] in ("RoleBinding", "ClusterRoleBinding")
        and STEP_ACCOUNTS & {subject["name"] for subject in each.get("subjects", [])}
    ]
    assert set(bound) <= {"pipeline-runner-binding", "kubeflow-pipelines-public", *STEP_ACCOUNTS}


def test_the_promotion_may_restart_the_service_and_nothing_else(build: Build) -> None:
    objects = with_serving(build)
    assert named(objects, "Role", "restart-legalaid-ml", PLATFORM)["rules"] == [
        {
            "apiGroups": ["apps"],
            "resources": ["deployments"],
            "resourceNames": ["legalaid-ml"],
            "verbs": ["get", "patch"],
        }
    ]
    subjects = named(objects, "RoleBinding", "restart-legalaid-ml", PLATFORM)["subjects"]
    assert subjects == [{"kind": "ServiceAccount", "name": step_pods.PROMOTION_ACCOUNT, "namespace": KFP}]
    assert [
        each["roleRef"]["name"]
        for each in objects
        if each["kind"] == "RoleBinding"
        and each["metadata"]["namespace"] == PLATFORM
        and subjects[0] in each["subjects"]
    ] == ["restart-legalaid-ml"]
    assert {
        each["metadata"]["name"]
        for each in objects
        if each["kind"] == "Role" and each["metadata"]["namespace"] == PLATFORM
    } == {"restart-legalaid-ml", "mlops-reconcile"}


# ---------------------------------------------------------------------------------------------- MinIO's policies


def effects(policy: Object, action: str, resource: str) -> set[str]:
    """What the statements say of it, with `*` in resources and none in actions."""
    found = set()
    for statement in policy["Statement"]:
        assert set(statement) == {"Effect", "Action", "Resource"}
        for pattern in statement["Resource"]:
            expression = re.escape(pattern).replace(r"\*", ".*")
            if action in statement["Action"] and re.fullmatch(expression, f"arn:aws:s3:::{resource}"):
                found.add(statement["Effect"])
    return found


def allowed(policy: Object, action: str, resource: str) -> bool:
    """AWS's rule: an allowance, and no denial."""
    return effects(policy, action, resource) == {"Allow"}


@pytest.mark.parametrize("role", RIGHTS)
def test_no_identity_deletes_versions(role: str) -> None:
    """MinIO deletes a version for whoever may delete objects and isn't denied s3:DeleteObjectVersion (AWS asks for it).

    As its cmd/auth-handler.go has it; `DenyOnly` there.
    """
    policy = json.loads((MANIFESTS / "object-store" / "policies" / f"{role}.json").read_text())
    for bucket in BUCKETS:
        resource = f"{bucket}/some/object"
        denied = "Deny" in effects(policy, "s3:DeleteObjectVersion", resource)
        assert denied, f"{role} deletes versions in {bucket}"
        # and nothing else is lost by it
        assert allowed(policy, "s3:DeleteObject", resource) == ("s3:DeleteObject" in RIGHTS[role].get(bucket, ()))


@pytest.mark.parametrize("role", RIGHTS)
def test_each_identity_has_its_buckets_and_no_other(role: str) -> None:
    """MinIO can't be run here, so its policies are evaluated by the rule they are written for."""
    policy = json.loads((MANIFESTS / "object-store" / "policies" / f"{role}.json").read_text())
    for statement in policy["Statement"]:
        assert not [action for action in statement["Action"] if "*" in action]
    for bucket in BUCKETS:
        may = RIGHTS[role].get(bucket, set())
        for action in (*WRITE, "s3:DeleteObjectVersion", "s3:PutBucketPolicy", "s3:DeleteBucket", "s3:CreateBucket"):
            resource = bucket if "Bucket" in action else f"{bucket}/some/object"
            assert allowed(policy, action, resource) == (action in may), f"{role}: {action} on {bucket}"
        # a bucket of a similar name is another one
        assert not allowed(policy, "s3:GetObject", f"{bucket}-2/object")


def test_what_storage_asks_for_is_what_policies_speak_of() -> None:
    source = (ROOT / "matchmaking/storage/s3.py").read_text()
    calls = set(re.findall(r"self\.client\.(\w+)\(", source)) | set(re.findall(r'get_paginator\("(\w+)"\)', source))
    s3 = {"get_object": "s3:GetObject", "put_object": "s3:PutObject", "delete_object": "s3:DeleteObject"}
    s3 |= {"list_objects_v2": "s3:ListBucket", "head_object": "s3:GetObject"}
    assert {s3[call] for call in calls - {"get_paginator"}} == WRITE


def test_setup_makes_each_bucket_and_identity(build: Build) -> None:
    objects = build("overlays/kind")
    script = (MANIFESTS / "object-store" / "minio" / "setup.sh").read_text()
    made = re.search(r"for bucket in ([a-z ]+); do\s+mc mb", script)
    versioned = re.search(r"for bucket in ([a-z ]+); do\s+mc version enable", script)
    assert made and set(made[1].split()) == set(BUCKETS)
    assert versioned and set(versioned[1].split()) == {"candidates", "production"}
    assert set(re.findall(r"^identity (\w+) ", script, re.MULTILINE)) == set(RIGHTS)
    (container,) = named(objects, "Job", "setup-store")["spec"]["template"]["spec"]["containers"]
    given = {each["name"] for each in container["env"]}
    assert set(re.findall(r"\$([A-Z_]+(?:KEY|SECRET))", script)) <= given
    files = {_key(each)[2]: set(each["data"]) for each in objects if each["kind"] == "ConfigMap" and "data" in each}
    assert files["minio-setup"] == {"setup.sh"} and files["store-policies"] == {f"{role}.json" for role in RIGHTS}


MC = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  "admin user add store") cat >>"$STDIN" ;;
  "admin policy attach"*) exit "$ATTACHED" ;;
  "admin user info"*) echo '{ "policyName": "'"${GIVEN:-${6#mlops-}}"'" }' ;;
esac
"""


def setup_store(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs MinIO's set-up script with a stand-in for MinIO's client that notes what it is asked."""
    for name, script in {"mc": MC, "curl": '#!/bin/sh\nexit "${DOWN:-0}"\n', "sleep": "#!/bin/sh\n"}.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    secrets = {f"{role.upper()}_SECRET": f"{role}-secret" for role in RIGHTS}
    keys = {f"{role.upper()}_KEY": f"mlops-{role}" for role in RIGHTS}
    given = {"PATH": f"{folder}:/usr/bin:/bin", "CALLS": str(folder / "calls"), "STDIN": str(folder / "stdin")}
    script = str(MANIFESTS / "object-store" / "minio" / "setup.sh")
    everything = {**given, **secrets, **keys, "ATTACHED": "0", **env}
    return subprocess.run(["sh", script], env=everything, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("attached", ["0", "1"])
def test_the_set_up_of_minio_passes_secrets_through_stdin(tmp_path: Path, attached: str) -> None:
    done = setup_store(tmp_path, ATTACHED=attached)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text()
    assert "secret" not in calls and "secret" not in done.stdout
    wanted = [f"mlops-{role}\n{role}-secret\n" for role in RIGHTS]
    assert (tmp_path / "stdin").read_text() == "".join(wanted)
    for bucket in BUCKETS:
        assert f"mb --ignore-existing store/{bucket}\n" in calls
    for role in RIGHTS:
        assert f"admin policy create store {role} /policies/{role}.json\n" in calls
        assert f"admin policy attach store {role} --user mlops-{role}\n" in calls


def test_the_set_up_of_minio_gives_up(tmp_path: Path) -> None:
    done = setup_store(tmp_path, DOWN="7")
    assert done.returncode == 1 and "MinIO doesn't answer at minio:9000" in done.stdout
    assert not (tmp_path / "calls").exists()


def test_the_set_up_of_minio_fails_where_a_policy_isnt_attached(tmp_path: Path) -> None:
    done = setup_store(tmp_path, GIVEN="readwrite")
    assert done.returncode == 1 and "mlops-kfp doesn't have the policy kfp" in done.stdout
