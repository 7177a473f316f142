"""What `make cluster-up` applies, checked as far as that goes without a cluster."""

from __future__ import annotations

import inspect
import json
import math
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from matchmaking.base.settings import CANDIDATES_URI, DATA_URI, EXPERIMENT, PRODUCTION_URI
from mlops.cli import submit
from mlops.cluster import capacity, doors, images, in_cluster, machine, secrets, wait
from mlops.cluster.capacity import KFP, PLATFORM, quantity
from mlops.kubeflow import schedule
from pipelines import pods as step_pods
from tests.manifests.conftest import (
    CLOSED,
    OVERLAYS,
    ROOT,
    Build,
    Object,
    _checkout,
    _kubectl,
    at_hand,
    containers,
    named,
    pods,
    standin,
)

MANIFESTS = ROOT / "manifests"
# CronJobs' time zones and the labels of Jobs ask for 1.27; these are what is validated
VERSIONS = ("1.30", "1.34")


# ---------------------------------------------------------------------------------------------- builds and schemas


def test_every_kustomization_is_part_of_something_built(build: Build) -> None:
    for name in OVERLAYS:
        assert build(name)
    used: set[str] = set()

    def visit(folder: str) -> None:
        used.add(folder)
        text = yaml.safe_load((MANIFESTS / folder / "kustomization.yaml").read_text())
        for part in [*text.get("resources", []), *text.get("components", [])]:
            place = (MANIFESTS / folder / part).resolve()
            if "://" not in part and place.is_dir():
                visit(str(place.relative_to(MANIFESTS)))

    for name in (*OVERLAYS, "serving", "kfp/cluster-scoped"):
        visit(name)
    there = {str(path.parent.relative_to(MANIFESTS)) for path in MANIFESTS.rglob("kustomization.yaml")}
    assert used == there


def test_every_file_is_used() -> None:
    """A file that no kustomization names is applied nowhere."""
    for path in MANIFESTS.rglob("kustomization.yaml"):
        text = path.read_text()
        for file in path.parent.iterdir():
            if file.is_file() and file != path:
                assert file.name in text, f"{file} is in no kustomization"


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_match_the_schemas(objects: list[Object], version: str) -> None:
    validate(objects, version)


# what was found right, by version and content: most objects are in several overlays, and a look takes 30 ms
right: set[tuple[str, str]] = set()


def validate(objects: list[Object], version: str) -> None:
    library = pytest.importorskip("kubernetes_validate")
    for each in objects:
        content = version, json.dumps(each, sort_keys=True, default=str)
        if content in right:
            continue
        try:
            library.validate(each, version, strict=True)
        except library.ValidationError as error:
            where = "/".join(str(part) for part in error.path)
            pytest.fail(f"{each['kind']} {each['metadata']['name']}: {where}: {error.message[:200]}")
        right.add(content)


def test_the_optional_service_builds_and_matches(build: Build) -> None:
    objects = with_serving(build)
    validate(objects, VERSIONS[-1])
    assert named(objects, "ConfigMap", "mlops-settings")["data"]["MLOPS_RESTART_COMMAND"].endswith(
        f" {PLATFORM} legalaid-ml"
    )
    assert image_tags(objects, "legalaid-ml") == {"1.0.0"}


def with_serving(build: Build) -> list[Object]:
    """The overlay for kind as a user changes it to have the service, too."""
    folder = build.upstream.parent / "manifests" / "overlays" / "kind-serving"  # type: ignore[attr-defined]
    if not folder.exists():
        folder.mkdir()
        (folder / "kustomization.yaml").write_text("resources: [../kind]\ncomponents: [../../serving]\n")
    return build("overlays/kind-serving")


def test_names_are_unique(objects: list[Object]) -> None:
    keys = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
    assert len(set(keys)) == len(keys)


def test_server_side_apply_takes_the_lists(objects: list[Object]) -> None:
    """The server refuses lists with the same key twice, where the client took the last one."""
    for _, name, pod in pods(objects):
        for container in containers(pod):
            for field, key in (("env", "name"), ("volumeMounts", "mountPath"), ("ports", "containerPort")):
                keys = [entry[key] for entry in container.get(field, [])]
                assert len(set(keys)) == len(keys), f"{name}: {field}"
        names = [volume["name"] for volume in pod["spec"].get("volumes", [])]
        assert len(set(names)) == len(names), name


def test_the_stand_in_is_like_upstream(tmp_path: Path) -> None:
    if not at_hand():
        pytest.skip(
            "KFP_CHECKOUT and ARGO_CHECKOUT don't name checkouts: the manifests were checked on a stand-in only"
        )
    real = _kubectl(_checkout(tmp_path) / "env" / "platform-agnostic")

    def facts(objects: list[Object]) -> dict[tuple[str, str], Any]:
        found = {}
        for each in objects:
            spec, key = each.get("spec", {}), (each["kind"], each["metadata"]["name"])
            found[key] = None
            if each["kind"] == "Service":
                selector = {name: value for name, value in spec["selector"].items() if name != "application-crd-id"}
                found[key] = (
                    selector,
                    sorted((port["port"], port.get("targetPort", port["port"])) for port in spec["ports"]),
                )
            if each["kind"] == "Deployment":
                found[key] = [
                    (
                        *(each["name"], each["image"], each.get("resources", {}).get("requests", {})),
                        sorted(_ports(each).values()),
                    )
                    for each in containers(spec["template"])
                ]
                found[key] += sorted(capacity.images([each]))
        return found

    assert facts(standin()) == facts(real)
    cluster = _kubectl(tmp_path / "kfp" / "cluster-scoped-resources")
    kinds = {key for key in facts(cluster) if key[0] != "CustomResourceDefinition"}
    assert set(facts(standin("cluster"))) == kinds


# ---------------------------------------------------------------------------------------------- what isn't installed

UNUSED = ("cache-deployer", "cache-server", "metadata-writer", "viewer", "visualization")


def test_what_pipelines_of_the_second_version_dont_use_is_left_out(build: Build, overlay: str) -> None:
    """Upstream's cache server, metadata writer and viewers look after pods of its first version alone."""
    objects = [*build(overlay), *build("kfp/cluster-scoped")]
    left = {
        f"{each['kind']} {each['metadata']['name']}"
        for each in objects
        if each["kind"] != "CustomResourceDefinition" and any(part in each["metadata"]["name"] for part in UNUSED)
    }
    assert left == set()
    # no account without a pod or a use, and no right of one that isn't there
    accounts = {each["metadata"]["name"] for each in objects if each["kind"] == "ServiceAccount"}
    for each in objects:
        for subject in each.get("subjects", []) if each["kind"].endswith("RoleBinding") else []:
            assert subject["kind"] != "ServiceAccount" or subject["name"] in accounts, each["metadata"]["name"]
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    for each in objects:
        if each["kind"].endswith("RoleBinding"):
            assert (each["roleRef"]["kind"], each["roleRef"]["name"]) in there, each["metadata"]["name"]


def test_the_api_server_starts_without_a_visualization_server(objects: list[Object]) -> None:
    """It ends at once where it isn't told an address; Kubernetes gives it one only where there is such a Service."""
    (container,) = named(objects, "Deployment", "ml-pipeline", KFP)["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    services = {each["metadata"]["name"] for each in objects if each["kind"] == "Service"}
    for part in ("HOST", "PORT"):
        name = f"ML_PIPELINE_VISUALIZATIONSERVER_SERVICE_{part}"
        assert given.get(name) or "ml-pipeline-visualizationserver" in services


def test_argo_looks_at_a_run_every_two_seconds(objects: list[Object]) -> None:
    """By default each step waits up to ten, several times; below one, Argo says, it works on what is no longer so."""
    (container,) = named(objects, "Deployment", "workflow-controller", KFP)["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value", "") for each in container["env"]}
    assert 1 <= float(given.get("DEFAULT_REQUEUE_TIME", "10s").removesuffix("s")) <= 2


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


def _ports(container: Object) -> dict[str, int]:
    return {port.get("name", str(port["containerPort"])): port["containerPort"] for port in container.get("ports", [])}


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


def selects(selector: Object, pod: Object) -> bool:
    labels = pod["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in selector.items())


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


def _key(each: Object) -> tuple[str, str, str]:
    # without the hash of the content in a generated ConfigMap's name
    name = re.sub(r"-[a-z0-9]{10}$", "", each["metadata"]["name"]) if each["kind"] == "ConfigMap" else None
    return each["kind"], each["metadata"].get("namespace", ""), name or each["metadata"]["name"]


# ---------------------------------------------------------------------------------------------- settings


def test_steps_find_their_settings_and_secrets(build: Build) -> None:
    settings = named(build("overlays/kind"), "ConfigMap", step_pods.SETTINGS, KFP)["data"]
    wanted = {*step_pods.TRACKING_SETTINGS, *step_pods.STORAGE_SETTINGS, *step_pods.RESTART_SETTINGS}
    assert wanted <= set(settings)
    made = secret_keys()
    for name in (step_pods.PIPELINE_SECRET, step_pods.PROMOTION_SECRET):
        assert {*step_pods.TRACKING, *step_pods.STORAGE} == made[KFP, name]
    named(build("overlays/kind"), "ServiceAccount", step_pods.PROMOTION_ACCOUNT, KFP)
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
    assert set(times) == {"retrain", "evaluate", "monitor"}
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


def image_tags(objects: list[Object], name: str) -> set[str]:
    images = [container["image"] for _, _, pod in pods(objects) for container in containers(pod)]
    return {image.rpartition(":")[2] for image in images if f"/{name}:" in image}


# ---------------------------------------------------------------------------------------------- security


def test_pods_are_as_restricted_as_can_be(build: Build, overlay: str) -> None:
    objects = with_serving(build) if overlay == "overlays/kind" else build(overlay)
    namespace = named(objects, "Namespace", PLATFORM)["metadata"]["labels"]
    assert namespace["pod-security.kubernetes.io/enforce"] == "restricted"
    ours = [(name, pod) for place, name, pod in pods(objects) if place == PLATFORM]
    assert len(ours) >= 8
    for name, pod in ours:
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        assert {key for volume in spec["volumes"] for key in volume} <= {
            *("name", "emptyDir", "configMap", "persistentVolumeClaim")
        }, name
        for container in containers(pod):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            for kind in ("requests", "limits"):
                assert set(container["resources"][kind]) == {"cpu", "memory"}, name
            assert container["imagePullPolicy"] == "IfNotPresent", name
            if not name.startswith(("Job", "CronJob")) and container in spec["containers"]:
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), name
            for volume in spec["volumes"]:
                assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"], name


def test_public_images_are_pinned(objects: list[Object]) -> None:
    for namespace, name, pod in pods(objects):
        for container in containers(pod):
            image = container["image"]
            repository, tag = re.fullmatch(r"([^@:]+(?::\d+/[^@:]+)?)(?::([^@]+))?(?:@.*)?", image).groups()  # type: ignore[union-attr]
            assert tag and tag != "latest", f"{name}: {image}"
            # SeaweedFS's client is pinned as upstream pins the server, by tag
            if namespace == PLATFORM and not repository.startswith("legalaid/") and "seaweedfs" not in repository:
                assert re.search(r"@sha256:[0-9a-f]{64}$", image), f"{name}: {image}"


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
        and {"pipeline-runner", "mlops-promotion"} & {subject["name"] for subject in each.get("subjects", [])}
    ]
    assert set(bound) <= {"pipeline-runner-binding", "mlops-promotion", "kubeflow-pipelines-public"}


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
        each["metadata"]["name"]
        for each in objects
        if each["kind"] == "Role" and each["metadata"]["namespace"] == PLATFORM
    ] == ["restart-legalaid-ml"]


# ---------------------------------------------------------------------------------------------- network policies


class Network:
    """Who may talk to whom: NetworkPolicies, evaluated as their API says (no ipBlock, no endPort: none here)."""

    def __init__(self, objects: list[Object]) -> None:
        # of upstream's policies the stand-in knows the names
        self.policies = [each for each in objects if each["kind"] == "NetworkPolicy" and each.get("spec")]

    @staticmethod
    def chosen(selector: Object | None, labels: dict[str, str]) -> bool:
        selector = selector or {}
        assert set(selector) <= {"matchLabels", "matchExpressions"}
        for rule in selector.get("matchExpressions", []):
            assert rule["operator"] == "In"
            if labels.get(rule["key"]) not in rule["values"]:
                return False
        return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())

    def _side(
        self, direction: str, here: tuple[str, dict[str, str]], other: tuple[str, dict[str, str]], port: int
    ) -> bool:
        key = "from" if direction == "Ingress" else "to"
        on = [
            each
            for each in self.policies
            if each["metadata"]["namespace"] == here[0]
            and direction in each["spec"]["policyTypes"]
            and self.chosen(each["spec"]["podSelector"], here[1])
        ]
        if not on:
            return True
        for policy in on:
            for rule in policy["spec"].get(direction.lower(), []):
                if "ports" in rule and port not in {each["port"] for each in rule["ports"]}:
                    continue
                for peer in rule.get(key, [{}]):
                    place = {"kubernetes.io/metadata.name": other[0]}
                    if "namespaceSelector" in peer:
                        there = self.chosen(peer["namespaceSelector"], place)
                    else:
                        there = not peer or other[0] == here[0]
                    if there and self.chosen(peer.get("podSelector"), other[1]):
                        return True
        return False

    def allows(self, source: tuple[str, dict[str, str]], target: tuple[str, dict[str, str]], port: int) -> bool:
        return self._side("Egress", source, target, port) and self._side("Ingress", target, source, port)


OURS = ("minio", "postgres", "mlflow", "setup-store", "setup-mlflow", "seed", "mlops-client", "legalaid-ml")
PEERS: dict[str, tuple[str, dict[str, str]]] = {
    **{name: (PLATFORM, {"app": name}) for name in OURS},
    "mlops-reconcile": (KFP, {"app": "mlops-reconcile"}),
    "step": (KFP, {"pipelines.kubeflow.org/v2_component": "true"}),
    "ml-pipeline": (KFP, {"app": "ml-pipeline"}),
    "ml-pipeline-ui": (KFP, {"app": "ml-pipeline-ui"}),
    "workflow-controller": (KFP, {"app": "workflow-controller"}),
    "mysql": (KFP, {"app": "mysql"}),
    "seaweedfs": (KFP, {"app": "seaweedfs"}),
    "stranger": ("default", {"app": "mlflow"}),
    "dns": ("kube-system", {"k8s-app": "kube-dns"}),
}
KFPS = ("step", "mlops-reconcile", "ml-pipeline", "ml-pipeline-ui", "workflow-controller", "mysql")


def reachable(objects: list[Object], target: str, port: int) -> set[str]:
    network = Network(objects)
    return {name for name, peer in PEERS.items() if name != target and network.allows(peer, PEERS[target], port)}


def test_network_policies_allow_what_is_needed_and_no_more(build: Build) -> None:
    objects = with_serving(build)
    named(objects, "NetworkPolicy", "default-deny", PLATFORM)
    assert reachable(objects, "postgres", 5432) == {"mlflow"}
    assert reachable(objects, "mlflow", 5000) == {"step", "mlops-reconcile", "setup-mlflow", "seed"}
    assert reachable(objects, "minio", 9000) - {"seaweedfs"} == {
        "mlflow",
        "setup-store",
        "seed",
        "mlops-client",
        "legalaid-ml",
        *KFPS,
    }
    assert reachable(objects, "minio", 9001) == set()
    assert reachable(objects, "dns", 53) >= set(OURS)
    assert reachable(objects, "legalaid-ml", 8000) & set(OURS) == set()
    assert reachable(objects, "stranger", 443) & set(OURS) == set()


def test_network_policies_with_seaweedfs(build: Build) -> None:
    objects = build("object-store/seaweedfs")
    assert reachable(objects, "seaweedfs", 8333) - set(KFPS) == {"mlflow", "seed", "mlops-client", "legalaid-ml"}
    for port in (9333, 19333, 8888, 18888):
        assert "setup-store" in reachable(objects, "seaweedfs", port)
        assert "mlflow" not in reachable(objects, "seaweedfs", port)
    assert "stranger" not in reachable(objects, "seaweedfs", 8333)


# who has to reach what in KFP's namespace, by Deployment and port; from elsewhere nobody reaches anything
FLOWS = {
    # the UI and its API; the API server's clients; KFP's driver and launcher in the pods of runs; the CronJobs
    ("ml-pipeline", 8888): {"ml-pipeline-ui", "ml-pipeline-persistenceagent", "ml-pipeline-scheduledworkflow"},
    ("ml-pipeline", 8887): {"ml-pipeline-persistenceagent", "ml-pipeline-scheduledworkflow", "step"},
    ("mysql", 3306): {"ml-pipeline", "metadata-grpc-deployment"},
    ("metadata-grpc-deployment", 8080): {"ml-pipeline", "metadata-envoy-deployment", "step"},
    ("metadata-envoy-deployment", 9090): {"ml-pipeline-ui"},
}
CLIENTS = {"ml-pipeline-ui", "ml-pipeline-persistenceagent", "ml-pipeline-scheduledworkflow", "step"}


def peers(objects: list[Object]) -> dict[str, tuple[str, dict[str, str]]]:
    """Every pod that is installed, by its workload; those of a run; and such as are labelled like them elsewhere."""
    found = {
        name.split()[1] if name.startswith("Deployment") else name: (place, _labels(pod))
        for place, name, pod in pods(objects)
    }
    found["step"] = PEERS["step"]
    elsewhere = {f"{name} in default": ("default", labels) for name, (_, labels) in found.items()}
    return {**found, **elsewhere, "anything in default": ("default", {}), "anything": ("kube-system", {})}


@pytest.mark.parametrize("overlay", CLOSED)
def test_kubeflow_is_closed_but_for_what_it_needs(build: Build, overlay: str) -> None:
    """From any pod that reaches KFP's API a run may be started under any of its Secrets: it has no users."""
    objects = build(overlay)
    network, around = Network(objects), peers(objects)
    clients = {name for name, (place, _) in around.items() if name.startswith("CronJob ") and place != "default"}
    assert len(clients) >= 4
    for place, name, pod in pods(objects):
        target = name.split()[1]
        if place != KFP or target == "seaweedfs":  # which has a test of its own
            continue
        for port in {port for each in containers(pod) for port in _ports(each).values()} | {1, 22}:
            reach = {
                who for who, peer in around.items() if who != target and network.allows(peer, (KFP, _labels(pod)), port)
            }
            assert FLOWS.get((target, port), set()) <= reach, f"{target}:{port}"
            if target == "ml-pipeline" and port in (8887, 8888):
                assert reach <= CLIENTS | clients
                assert port != 8888 or clients <= reach
            else:
                assert reach == FLOWS.get((target, port), set()), f"{target}:{port}"
    assert not [who for who, peer in around.items() if network.allows(peer, PEERS["step"], 8080) and who != "step"]


def test_a_shared_kubeflow_stays_as_open_as_it_was(build: Build) -> None:
    objects = build("overlays/shared")
    ours = [each for each in objects if each["kind"] == "NetworkPolicy" and each["metadata"]["namespace"] == KFP]
    assert [each["metadata"]["name"] for each in ours] == []
    assert "stranger" in reachable(objects, "ml-pipeline", 8888)
    closed = {_key(each) for each in build("overlays/existing")} - {_key(each) for each in objects}
    assert {kind for kind, *_ in closed} == {"NetworkPolicy"}


def test_cronjobs_reach_the_api_they_are_told(build: Build, overlay: str) -> None:
    objects = build(overlay)
    client = named(objects, "ConfigMap", "mlops-client")["data"]
    network = Network(objects)
    crons = [(there, name, pod) for there, name, pod in pods(objects) if name.startswith("CronJob")]
    assert len(crons) >= 4
    for there, name, pod in crons:
        (container,) = pod["spec"]["containers"]
        own = {each["name"]: each.get("value") for each in container.get("env", [])}
        host = own.get("MLOPS_KFP_HOST") or client["MLOPS_KFP_HOST"]
        service, place, port = re.fullmatch(  # type: ignore[union-attr]
            r"http://([\w-]+)(?:\.([\w-]+)\.svc\.cluster\.local)?:(\d+)", host
        ).groups()
        found = named(objects, "Service", service, place or there)["spec"]
        (to,) = [each.get("targetPort", each["port"]) for each in found["ports"] if each["port"] == int(port)]
        target = next(
            pod for where, _, pod in pods(objects) if where == (place or there) and selects(found["selector"], pod)
        )
        known = {key: value for each in containers(target) for key, value in _ports(each).items()}
        where = ((there, _labels(pod)), (place or there, _labels(target)))
        assert network.allows(*where, known.get(to, to)), f"{name}: {host}"


def _chosen_labels(part: Any) -> Iterator[tuple[str, str]]:
    """Every label that a policy asks of pods."""
    if isinstance(part, list):
        for each in part:
            yield from _chosen_labels(each)
    elif isinstance(part, dict):
        yield from part.get("matchLabels", {}).items()
        for rule in part.get("matchExpressions", []):
            yield from ((rule["key"], value) for value in rule["values"])
        for key, each in part.items():
            if key not in ("matchLabels", "matchExpressions", "namespaceSelector"):
                yield from _chosen_labels(each)


def test_policies_select_pods_that_there_are(build: Build) -> None:
    """A label that is written wrong selects nothing, and denies or allows in silence."""
    everything = [with_serving(build), build("object-store/seaweedfs")]
    there = {pair for objects in everything for _, _, pod in pods(objects) for pair in _labels(pod).items()}
    there |= set(PEERS["step"][1].items())
    checked = 0
    for policy in (each for objects in everything for each in objects if each["kind"] == "NetworkPolicy"):
        for pair in _chosen_labels(policy.get("spec", {})):
            assert pair in there, f"{policy['metadata']['name']}: {pair}"
            checked += 1
    assert checked > 40


def test_policies_open_ports_that_pods_have(build: Build) -> None:
    objects = with_serving(build)
    for policy in (each for each in objects if each["kind"] == "NetworkPolicy"):
        namespace, selector = policy["metadata"]["namespace"], policy["spec"]["podSelector"]
        chosen = [
            pod for place, _, pod in pods(objects) if place == namespace and Network.chosen(selector, _labels(pod))
        ]
        there = {port for pod in chosen for each in containers(pod) for port in _ports(each).values()}
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule["ports"]} <= there, policy["metadata"]["name"]


def _labels(pod: Object) -> dict[str, str]:
    return dict(pod["metadata"].get("labels", {}))


# ---------------------------------------------------------------------------------------------- MinIO's policies


BUCKETS = ("mlpipeline", "mlflow", "datasets", "candidates", "production")
READ = {"s3:GetObject", "s3:ListBucket"}
WRITE = READ | {"s3:PutObject", "s3:DeleteObject"}
RIGHTS = {
    "kfp": {"mlpipeline": WRITE},
    "mlflow": {"mlflow": WRITE},
    "pipeline": {"datasets": READ, "production": READ, "candidates": WRITE},
    "promotion": {"datasets": READ, "candidates": READ, "production": WRITE},
    "seed": {"datasets": WRITE, "candidates": WRITE, "production": WRITE},
    "serving": {"production": READ},
}


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
    source = (ROOT / "matchmaking" / "storage.py").read_text()
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


# ---------------------------------------------------------------------------------------------- resources


def test_it_fits_three_cpus_and_eight_gib(build: Build, overlay: str) -> None:
    """The sum of the requests of all that runs at once, with the largest step of a pipeline."""
    needed = capacity.needed(build(overlay))
    there = needed + capacity.SYSTEM
    assert there.cpu <= 3 and needed.cpu <= 2
    assert there.memory <= machine.MEMORY_GIB * 2**30 < 8 * 2**30


def test_the_documents_say_what_it_takes(build: Build) -> None:
    objects, page = build("overlays/kind"), (ROOT / "docs" / "cluster.md").read_text()
    said = capacity.table(objects)
    assert said in page, f"docs/cluster.md doesn't have:\n\n{said}"
    there = capacity.needed(objects) + capacity.SYSTEM
    assert f"Docker with {math.ceil(there.cpu)} CPUs and 8 GiB ({machine.MEMORY_GIB:g} are asked for)" in page


def test_requests_of_a_pod_are_what_the_scheduler_counts() -> None:
    def asks(cpu: str, memory: str) -> Object:
        return {"resources": {"requests": {"cpu": cpu, "memory": memory}}}

    # the containers at once; of those before them, one at a time
    pod = {
        "initContainers": [asks("2", "1Mi"), asks("1", "2Mi")],
        "containers": [asks("500m", "2Mi"), asks("1", "1Gi"), {}],
    }
    assert capacity.of_pod(pod) == capacity.Requests(2.0, 2**30 + 2**21)
    assert capacity.of_pod({"containers": [{}]}) == capacity.Requests()


def test_every_step_is_within_what_is_asked_for(build: Build) -> None:
    """Of a run on the sample data; of larger data `submit` says what it asks for."""
    steps = capacity.rows(build("overlays/kind"))["the largest step (of the sample data), and KFP's driver of the next"]
    for pod in step_pods.PODS.values():
        assert quantity(pod.cpu) + capacity.DRIVER.cpu <= steps.cpu
        assert quantity(pod.memory) + capacity.DRIVER.memory <= steps.memory


def test_volumes_are_asked_for(objects: list[Object]) -> None:
    claims = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "PersistentVolumeClaim"}
    assert {"postgres", "mysql-pv-claim"} < set(claims)
    for each in objects:
        volumes = each.get("spec", {}).get("template", {}).get("spec", {}).get("volumes", [])
        if each["kind"] == "Deployment" and any("persistentVolumeClaim" in volume for volume in volumes):
            # a second pod can't have a ReadWriteOnce volume that the first one still holds
            assert each["spec"]["strategy"]["type"] == "Recreate" or not each["spec"].get("replicas", 1), each[
                "metadata"
            ]
