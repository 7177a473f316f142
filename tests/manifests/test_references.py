"""The manifests' references and settings: what one object, the code or a document names is there in another."""

from __future__ import annotations

import inspect
import json
import re
import tomllib

from matchmaking.base.settings import CANDIDATES_URI, DATA_URI, EXPERIMENT, PRODUCTION_URI
from mlops.cli import submit
from mlops.cluster import doors, images, in_cluster, secrets, wait
from mlops.cluster.capacity import KFP, PLATFORM
from mlops.kubeflow import schedule
from pipelines import PIPELINES
from pipelines import pods as step_pods
from tests.manifests.conftest import (
    MANIFESTS,
    OVERLAYS,
    ROOT,
    Build,
    Object,
    _key,
    _ports,
    containers,
    named,
    pods,
    selects,
    with_experiment,
    with_serving,
)

# ---------------------------------------------------------------------------------------------- references


def secret_keys() -> dict[tuple[str, str], set[str]]:
    """Keys of the Secrets that `make cluster-up` makes, from what it really sends to kubectl."""
    made: dict[tuple[str, str], set[str]] = {}

    class Empty:
        def items(self, kind: str, namespace: str) -> list[Object]:
            return []

        def apply(self, objects: list[Object]) -> None:
            for each in objects:
                made[each["metadata"]["namespace"], each["metadata"]["name"]] = set(each["stringData"])

    secrets.make_secrets(Empty())  # type: ignore[arg-type]
    return made


def test_what_pods_refer_to_is_there(objects: list[Object]) -> None:
    check_references(objects)


def test_what_the_optional_service_refers_to_is_there(build: Build) -> None:
    check_references(with_serving(build))
    check_references(with_experiment(build))
    test_services_lead_to_the_ports_of_one_workload(with_experiment(build))


def check_references(objects: list[Object]) -> None:
    made = secret_keys()
    there = {(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]): each for each in objects}
    for namespace, name, pod in pods(objects):
        account = pod["spec"].get("serviceAccountName", "default")
        assert account == "default" or ("ServiceAccount", namespace, account) in there, f"{name}: {account}"

        def config(map_name: str, key: str | None, optional: bool, where: str, namespace: str = namespace) -> None:
            found = there.get(("ConfigMap", namespace, map_name))
            assert optional or found, f"{where}: no ConfigMap {map_name}"
            assert optional or key is None or key in found["data"], f"{where}: {map_name} has no {key}"

        def secret(secret_name: str, key: str | None, optional: bool, where: str, namespace: str = namespace) -> None:
            keys = made.get((namespace, secret_name))
            assert optional or keys is not None, f"{where}: no Secret {secret_name}"
            assert optional or key is None or key in keys, f"{where}: {secret_name} has no {key}"

        for container in containers(pod):
            for variable in container.get("env", []):
                for kind, look in (("configMapKeyRef", config), ("secretKeyRef", secret)):
                    if found := variable.get("valueFrom", {}).get(kind):
                        look(found["name"], found["key"], found.get("optional", False), f"{name} {variable['name']}")
            for source in container.get("envFrom", []):
                for kind, look in (("configMapRef", config), ("secretRef", secret)):
                    if found := source.get(kind):
                        look(found["name"], None, found.get("optional", False), name)
            ports = _ports(container)
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for check in ("httpGet", "tcpSocket"):
                    if found := container.get(probe, {}).get(check):
                        assert found["port"] in ports or found["port"] in ports.values(), f"{name}: {probe}"
            volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, name
        for volume in pod["spec"].get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", namespace, claim["claimName"]) in there, name
            if found := volume.get("configMap"):
                config(found["name"], None, found.get("optional", False), name)
                files = there["ConfigMap", namespace, found["name"]]["data"] if namespace == PLATFORM else {}
                for path in _mounted(pod, volume["name"]) if files else ():
                    # a program that is run or read from there is in it
                    for argument in re.findall(rf"{path}/([\w./]+)", json.dumps(containers(pod))):
                        assert argument in files, f"{name}: {argument}"
            if found := volume.get("secret"):
                secret(found["secretName"], None, found.get("optional", False), name)


def _mounted(pod: Object, volume: str) -> set[str]:
    mounts = [mount for container in containers(pod) for mount in container.get("volumeMounts", [])]
    return {mount["mountPath"] for mount in mounts if mount["name"] == volume}


def test_services_lead_to_the_ports_of_one_workload(objects: list[Object]) -> None:
    for service in (each for each in objects if each["kind"] == "Service"):
        name, namespace, spec = service["metadata"]["name"], service["metadata"]["namespace"], service["spec"]
        if spec.get("type") == "ExternalName":
            host, there, *rest = spec["externalName"].split(".")
            assert rest == ["svc", "cluster", "local"]
            target = named(objects, "Service", host, there)
            # an alias has no ports of its own: 9000 is asked for by whoever uses it
            assert 9000 in {port["port"] for port in target["spec"]["ports"]}
            continue
        chosen = [pod for place, _, pod in pods(objects) if place == namespace and selects(spec["selector"], pod)]
        assert len(chosen) == 1, f"{name} selects {len(chosen)} workloads"
        ports = {key: value for container in containers(chosen[0]) for key, value in _ports(container).items()}
        for port in spec["ports"]:
            target = port.get("targetPort", port["port"])
            known = {*ports, *ports.values()}
            # upstream's SeaweedFS doesn't list all the ports it listens on
            assert target in known or name == "seaweedfs", f"{name}: {target}"


def test_nothing_is_left_of_seaweedfs_but_its_name(build: Build) -> None:
    for overlay in (*OVERLAYS[:3], "overlays/shared"):
        objects = build(overlay)
        left = {(each["kind"], each["metadata"]["name"]) for each in objects if "seaweed" in each["metadata"]["name"]}
        assert left == {("Service", "seaweedfs")}
        alias = named(objects, "Service", "seaweedfs", KFP)["spec"]
        assert alias == {"type": "ExternalName", "externalName": f"minio.{PLATFORM}.svc.cluster.local"}
        for each in objects:
            # what remains are addresses of that Service
            for address in re.findall(r"seaweedfs[\w.:-]*", json.dumps(each)):
                assert re.fullmatch(r"seaweedfs(\.kubeflow(\.svc)?)?(:9000)?", address), address


def test_seaweedfs_takes_minios_place_without_another_change(build: Build) -> None:
    """All that differs is the store: MinIO's objects, SeaweedFS's, and the policies that lead to either."""
    minio, weed = (
        {_key(each): each for each in build(name)} for name in ("overlays/existing", "object-store/seaweedfs")
    )
    differing = {key for key in minio.keys() | weed.keys() if minio.get(key) != weed.get(key)}
    assert {name for _, _, name in differing} == {
        *("minio", "minio-setup", "to-minio", "setup-store"),
        *("seaweedfs", "seaweedfs-pvc", "seaweedfs-setup", "seaweedfs-mlops", "to-seaweedfs", "setup-to-seaweedfs"),
    }
    assert weed["Service", PLATFORM, "minio"]["spec"]["externalName"] == f"seaweedfs.{KFP}.svc.cluster.local"


# ---------------------------------------------------------------------------------------------- settings


def test_steps_find_their_settings_and_secrets(build: Build) -> None:
    settings = named(build("overlays/kind"), "ConfigMap", step_pods.SETTINGS, KFP)["data"]
    wanted = {
        *step_pods.TRACKING_SETTINGS,
        *step_pods.STORAGE_SETTINGS,
        *step_pods.RESTART_SETTINGS,
        *step_pods.STOP_SETTINGS,
    }
    assert wanted <= set(settings)
    made = secret_keys()
    for name in (step_pods.PIPELINE_SECRET, step_pods.PROMOTION_SECRET):
        assert {*step_pods.TRACKING, *step_pods.STORAGE} == made[KFP, name]
    for account in (step_pods.PROMOTION_ACCOUNT, step_pods.EXPERIMENT_ACCOUNT):
        named(build("overlays/kind"), "ServiceAccount", account, KFP)
    # the addresses are those of Services, with their ports
    for key in ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"):
        service, namespace, port = re.fullmatch(  # type: ignore[union-attr]
            r"http://([\w-]+)\.([\w-]+)\.svc\.cluster\.local:(\d+)", settings[key]
        ).groups()
        ports = named(build("overlays/kind"), "Service", service, namespace)["spec"]["ports"]
        assert int(port) in {each["port"] for each in ports}


def test_mlflow_knows_each_of_its_names(build: Build) -> None:
    objects = build("overlays/kind")
    (container,) = named(objects, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    (hosts,) = [each.partition("=")[2].split(",") for each in container["args"] if each.startswith("--allowed-hosts=")]
    port = named(objects, "Service", "mlflow")["spec"]["ports"][0]["port"]
    for name in ("mlflow", f"mlflow.{PLATFORM}", f"mlflow.{PLATFORM}.svc", f"mlflow.{PLATFORM}.svc.cluster.local"):
        assert {name, f"{name}:{port}"} <= set(hosts)
    *_, local = doors.DOORS["MLflow"]
    assert {f"localhost:{local}", f"127.0.0.1:{local}"} <= set(hosts)
    settings = named(objects, "ConfigMap", step_pods.SETTINGS)["data"]
    assert settings["MLFLOW_TRACKING_URI"].removeprefix("http://") in hosts
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        check = container[probe]["httpGet"]
        assert check["path"] == "/health"
        assert {header["value"] for header in check["httpHeaders"] if header["name"] == "Host"} <= set(hosts)


def test_doors_are_services(build: Build) -> None:
    objects = build("overlays/kind")
    for namespace, service, port, _ in doors.DOORS.values():
        assert port in {each["port"] for each in named(objects, "Service", service, namespace)["spec"]["ports"]}


def test_cronjobs_follow_the_schedule_file(objects: list[Object]) -> None:
    file = MANIFESTS / "schedules" / "schedules.yaml"
    times = schedule.read_file(file)
    crons = {
        each["metadata"]["name"]: each["spec"]
        for each in objects
        if each["kind"] == "CronJob" and each["metadata"]["namespace"] == PLATFORM
    }
    assert {name: spec["schedule"] for name, spec in crons.items()} == times
    assert set(times) == {"retrain", "evaluate", "monitor", "observe", "experiment"}
    options = {f"--{name.replace('_', '-')}" for name in inspect.signature(submit.submit).parameters}
    for name, spec in crons.items():
        assert spec["timeZone"] == "Etc/UTC"
        assert spec["concurrencyPolicy"] == "Forbid"
        job = spec["jobTemplate"]["spec"]
        (container,) = job["template"]["spec"]["containers"]
        command, pipeline, *rest = container["args"]
        assert (command, pipeline) == ("submit", name)
        assert {each for each in rest if each.startswith("-")} <= options
        # what the file gives the runs is where it is looked for
        folder, key = rest[rest.index("--arguments") + 1].rsplit("/", 1)
        (mount,) = (each["name"] for each in container["volumeMounts"] if each["mountPath"] == folder)
        (volume,) = (each for each in job["template"]["spec"]["volumes"] if each["name"] == mount)
        assert key in named(objects, "ConfigMap", volume["configMap"]["name"], PLATFORM)["data"]
        assert schedule.read_arguments(file)[name] == {}
        # the client gives up before Kubernetes does, and says why; the next run comes after both
        assert int(rest[rest.index("--timeout") + 1]) < job["activeDeadlineSeconds"] < 86_400
        assert spec["startingDeadlineSeconds"] < 86_400
        assert spec["successfulJobsHistoryLimit"] and spec["failedJobsHistoryLimit"]
        # a pod that takes over follows the run that the first one started
        assert "MLOPS_RUN_NAME" in {each["name"] for each in container["env"]}


def test_links_begin_with_what_make_open_gives(objects: list[Object]) -> None:
    for name, namespace in (("mlops-settings", KFP), ("mlops-client", PLATFORM)):
        data = named(objects, "ConfigMap", name, namespace)["data"]
        assert data["MLOPS_KFP_URL"] == f"http://localhost:{doors.DOORS['Kubeflow Pipelines'][-1]}"
        assert data["MLOPS_MLFLOW_URL"] == f"http://localhost:{doors.DOORS['MLflow'][-1]}"
        assert set(step_pods.LINK_SETTINGS) <= set(data)
    assert not [each for each in objects if each["metadata"]["name"] == "ui-addresses"]


def test_records_are_reconciled(objects: list[Object]) -> None:
    cron = named(objects, "CronJob", "reconcile", KFP)["spec"]
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["python3", "-m", "mlops.cluster.in_cluster", "reconcile"]
    env = {each["name"]: each for each in container["env"]}
    service, port = re.fullmatch(r"http://([\w-]+):(\d+)", env["MLOPS_KFP_HOST"]["value"]).groups()  # type: ignore[union-attr]
    assert int(port) in {each["port"] for each in named(objects, "Service", service, KFP)["spec"]["ports"]}
    # as a step of the pipelines: no more than MLflow's credentials, of those that may end runs
    assert {each["valueFrom"]["secretKeyRef"]["name"] for each in env.values() if "secretKeyRef" in str(each)} == {
        step_pods.PIPELINE_SECRET,
        step_pods.NOTIFY_SECRET,
    }
    assert env["MLOPS_NOTIFY_URLS"]["valueFrom"]["secretKeyRef"]["optional"] is True
    (rule,) = named(objects, "Role", pod["serviceAccountName"], KFP)["rules"]
    assert rule == {"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["list"]}
    # which run is late, it sees by the CronJobs that submit them, where they are
    assert container["args"] == ["--schedules", PLATFORM]
    (rule,) = named(objects, "Role", pod["serviceAccountName"], PLATFORM)["rules"]
    assert rule == {"apiGroups": ["batch"], "resources": ["cronjobs"], "verbs": ["list"]}
    for namespace in (KFP, PLATFORM):
        binding = named(objects, "RoleBinding", pod["serviceAccountName"], namespace)
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": pod["serviceAccountName"], "namespace": KFP}]
    for name in PIPELINES:
        for job in (each for each in objects if each["kind"] == "CronJob" and each["metadata"]["name"] == name):
            assert job["metadata"]["labels"]["app"] == "mlops-client"
    assert env["MLOPS_POLICY"]["valueFrom"]["configMapKeyRef"] == {
        "name": step_pods.SETTINGS,
        "key": "MLOPS_POLICY",
        "optional": True,
    }
    assert cron["concurrencyPolicy"] == "Forbid"


def test_seed_and_defaults_name_the_same_places(build: Build) -> None:
    (container,) = named(build("overlays/kind"), "Job", "seed")["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["--data", DATA_URI, "--production", PRODUCTION_URI, "--candidates", CANDIDATES_URI]
    users = (MANIFESTS / "platform" / "core" / "users.py").read_text()
    from matchmaking.release.registry import MODEL

    assert f'EXPERIMENT = "{EXPERIMENT}"' in users
    assert f'MODEL = "{MODEL}"' in users


def test_seed_makes_what_make_run_makes() -> None:
    made = re.search(
        r"data generate --rows (\d+) --seed (\d+) --out \$\(SAMPLE\)/first-pairs", (ROOT / "Makefile").read_text()
    )
    assert made and [int(number) for number in made.groups()] == [in_cluster.FIRST_ROWS, in_cluster.FIRST_SEED]


def test_the_jobs_that_are_made_anew_are_all_there_are(objects: list[Object]) -> None:
    assert {each["metadata"]["name"] for each in objects if each["kind"] == "Job"} == set(wait.JOBS)


def test_our_images_are_those_that_are_built(objects: list[Object]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    kinds = set()
    for _, _, pod in pods(objects):
        for container in containers(pod):
            if "mlops" in container["image"]:
                kind, tag = re.fullmatch(r"legalaid/mlops-(\w+):(.+)", container["image"]).groups()  # type: ignore[union-attr]
                assert tag == version
                kinds.add(kind)
    built = re.search(r"^KINDS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert built and kinds == {"mlflow", "client", "trainer"} and kinds < set(built[1].split()) == set(images.IMAGES)
