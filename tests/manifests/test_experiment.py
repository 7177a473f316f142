"""The optional experiment in front of the service: its manifests, and what its pods run of our code."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from matchmaking.base.errors import InputError, RefusedError
from matchmaking.experiments.exposures import read_exposures
from matchmaking.experiments.gateway import Gateway, read_gateway
from matchmaking.experiments.stop import PLACE
from matchmaking.model import production
from mlops.cluster import deployments, in_cluster
from mlops.cluster.capacity import KFP, PLATFORM
from pipelines.pods import EXPERIMENT_ACCOUNT
from tests.exposure_fixtures import line, write
from tests.manifests.conftest import MANIFESTS, Build, Object, named, with_experiment, with_serving
from tests.unit.experiments.test_definition import GIVEN

HERE = MANIFESTS / "serving" / "experiment"


@pytest.fixture
def definition(tmp_path: Path) -> Path:
    """A definition whose folders hold the models that it names."""
    found = yaml.safe_load((HERE / "gateway.yaml").read_text())
    for variant in ("champion", "challenger"):
        folder = tmp_path / variant
        folder.mkdir()
        for name in production.FILES:
            (folder / name).write_bytes(f"{variant} {name}".encode())
        found[variant] |= {"folder": str(folder), "model": production.hashes(folder)[production.MODEL]}
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


def gateway_pod(build: Build) -> Object:
    return named(with_experiment(build), "Deployment", "experiment-gateway")["spec"]["template"]["spec"]


def test_the_definition_names_the_services(build: Build) -> None:
    objects = with_experiment(build)
    (configured,) = [
        each
        for each in objects
        if each["kind"] == "ConfigMap" and re.fullmatch(r"experiment-\w{10}", each["metadata"]["name"])
    ]
    gateway = Gateway.model_validate(yaml.safe_load(configured["data"]["gateway.yaml"]))
    assert gateway.mode == "shadow"
    for arm in (gateway.champion, gateway.challenger):
        service, port = arm.address.split(":")
        assert int(port) in {each["port"] for each in named(objects, "Service", service, PLATFORM)["spec"]["ports"]}
    # a change of the definition is a change of the pods, which follow its name
    for name in ("experiment-gateway", "legalaid-ml-challenger"):
        volumes = named(objects, "Deployment", name)["spec"]["template"]["spec"]["volumes"]
        names = {each["configMap"]["name"] for each in volumes if "configMap" in each}
        assert names == {configured["metadata"]["name"]}


def test_the_challenger_is_the_service_but_for_its_model(build: Build) -> None:
    """The same image, resources, probes and limits: what differs would be taken for the model's work."""
    champion = named(with_serving(build), "Deployment", "legalaid-ml")["spec"]
    challenger = named(with_experiment(build), "Deployment", "legalaid-ml-challenger")["spec"]
    assert challenger["template"]["spec"]["containers"] == champion["template"]["spec"]["containers"]
    # how many it has is Kubernetes' default at first, and then the stop's: applied again, it isn't brought back
    assert champion["replicas"] == 1 and "replicas" not in challenger
    (mine,), (theirs,) = (each["template"]["spec"]["initContainers"] for each in (challenger, champion))
    differing = {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    assert differing == {"command", "env", "envFrom", "volumeMounts"}
    assert [each for each in mine["env"] if each["name"] != deployments.SERVED] == theirs["env"]


def test_a_pod_of_the_gateway_ends_in_order(build: Build) -> None:
    """New requests go elsewhere, nginx answers those it has, and what ships the log is ended after it."""
    pod = gateway_pod(build)
    configure, ship = pod["initContainers"]
    (nginx,) = pod["containers"]
    assert ship["restartPolicy"] == "Always" and "restartPolicy" not in configure
    (script,) = [each for each in nginx["lifecycle"]["preStop"]["exec"]["command"] if "QUIT" in each]
    assert script.startswith("sleep 5; kill -s QUIT 1; ") and "/gateway/nginx.pid" in script
    assert nginx["command"][-1] == f"{configure['command'][-1]}/nginx.conf"
    assert ship["command"][-2] == f"{configure['command'][-1]}/log"
    strategy = named(with_experiment(build), "Deployment", "experiment-gateway")["spec"]["strategy"]
    assert strategy["rollingUpdate"]["maxUnavailable"] == 0


def test_the_way_back_is_a_variable_of_the_deployment(build: Build) -> None:
    deployment = named(with_experiment(build), "Deployment", "experiment-gateway")
    command = ["kubectl", "set", "env", "--local", "-f", "-", "-o", "yaml", "EXPERIMENT_MODE=off"]
    text = yaml.safe_dump(deployment)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    pod = yaml.safe_load(done.stdout)["spec"]["template"]["spec"]
    (variable,) = [each for each in pod["initContainers"][0]["env"] if each["name"] == "EXPERIMENT_MODE"]
    assert variable["value"] == "off"


def test_the_daily_look_may_stop_it_and_nothing_else(build: Build) -> None:
    """It may set how many pods the challenger has: it gets no pod of its own making, and so no Secret."""
    objects = with_experiment(build)
    command = named(objects, "ConfigMap", "mlops-settings")["data"]["MLOPS_EXPERIMENT_STOP_COMMAND"].split()
    assert command[:4] == ["python3", "-m", "mlops.cluster.in_cluster", "stop-experiment"]
    namespace, deployment, place = command[4:]
    assert (namespace, deployment, place) == (PLATFORM, "legalaid-ml-challenger", PLACE)
    assert named(objects, "Deployment", deployment, PLATFORM)
    rights = {
        (resource, name, verb)
        for rule in named(objects, "Role", "stop-experiment", PLATFORM)["rules"]
        for resource in rule["resources"]
        # none at all would be all of them
        for name in rule.get("resourceNames") or ["*"]
        for verb in rule["verbs"]
    }
    assert rights == {("deployments", deployment, "get"), ("deployments/scale", deployment, "patch")}
    account = {"kind": "ServiceAccount", "name": EXPERIMENT_ACCOUNT, "namespace": KFP}
    bound = [each for each in objects if each["kind"] == "RoleBinding" and account in each.get("subjects", [])]
    assert {(each["metadata"]["namespace"], each["roleRef"]["name"]) for each in bound} == {
        (PLATFORM, "stop-experiment"),
        (KFP, "pipeline-runner"),
    }
    assert all(each["subjects"] == [account] for each in bound)


def test_the_challenger_says_whose_it_is(build: Build, definition: Path, tmp_path: Path) -> None:
    """By the text that its pods serve by; pods of another experiment than that says don't start."""
    objects = with_experiment(build)
    pod = named(objects, "Deployment", "legalaid-ml-challenger")["spec"]["template"]["spec"]
    (fetch,) = [each for each in pod["initContainers"] if each["name"] == deployments.FETCH]
    (served,) = [each["value"] for each in fetch["env"] if each["name"] == deployments.SERVED]
    assert served == (HERE / "gateway.yaml").read_text()
    assert deployments.experiment_of(served) == read_gateway(definition).experiment == "ranking-1"
    in_cluster.fetch_arm(definition, "challenger", tmp_path / "models", served)
    other = served.replace("experiment: ranking-1", "experiment: ranking-2")
    with pytest.raises(InputError, match=r"EXPERIMENT_SERVED is of ranking-2, and .* of ranking-1"):
        in_cluster.fetch_arm(definition, "challenger", tmp_path / "other", other)
    assert not (tmp_path / "other").exists()
    for text in ("ranking-1", "experiment: ranking-1", "a: ["):
        with pytest.raises(InputError, match=r"is no text of a gateway\.yaml"):
            deployments.experiment_of(text)


def test_pods_make_nginx_s_configuration(definition: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_cluster.gateway(definition, tmp_path / "gateway", "")
    assert read_gateway(tmp_path / "gateway" / "gateway.yaml") == read_gateway(definition)
    text = (tmp_path / "gateway" / "nginx.conf").read_text()
    assert "listen 0.0.0.0:8000" in text and "mirror" in text
    assert "ranking-1: shadow" in capsys.readouterr().out
    if nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        # the Services' names are known on a cluster only
        for name in ("legalaid-ml-challenger:8000", "legalaid-ml:8000"):
            text = text.replace(name, "127.0.0.1:1")
        (tmp_path / "gateway" / "nginx.conf").write_text(text)
        command = [nginx, "-t", "-q", "-e", "stderr", "-c", str(tmp_path / "gateway" / "nginx.conf")]
        assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0
    in_cluster.gateway(definition, tmp_path / "gateway", "off")
    assert "mirror" not in (tmp_path / "gateway" / "nginx.conf").read_text()
    with pytest.raises(InputError, match="EXPERIMENT_MODE is on"):
        in_cluster.gateway(definition, tmp_path / "gateway", "on")


def test_what_an_earlier_version_has_stopped_stays_so(
    definition: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its names are in a variable of the Deployment, which no manifest has, so an upgrade leaves it there."""
    for names, mode in (("ranking-0 ranking-1", "off"), ("ranking-0 ranking-10", "shadow")):
        monkeypatch.setenv("EXPERIMENT_STOPPED", names)
        monkeypatch.setattr("sys.argv", ["in_cluster", "gateway", str(definition), str(tmp_path / "gateway")])
        with pytest.raises(SystemExit) as ended:
            in_cluster.main()
        assert ended.value.code == 0
        assert read_gateway(tmp_path / "gateway" / "gateway.yaml").mode == mode


def test_the_log_calls_each_service_by_its_image(build: Build, definition: Path, tmp_path: Path) -> None:
    objects = with_experiment(build)
    given = {each["name"]: each.get("value") for each in gateway_pod(build)["initContainers"][0]["env"]}
    for arm, name in (("CHAMPION", "legalaid-ml"), ("CHALLENGER", "legalaid-ml-challenger")):
        (service,) = named(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        assert given[f"{in_cluster.IMAGE}_{arm}"] == service["image"] == "legalaid/legalaid-ml:1.0.0"
    images = ("legalaid/legalaid-ml:1.0.0", f"legalaid/legalaid-ml@sha256:{'0' * 64}")
    in_cluster.gateway(definition, tmp_path / "gateway", "", "", *images)
    text = (tmp_path / "gateway" / "nginx.conf").read_text()
    assert all(f'"service":"{image}"' in text for image in images)
    # what answers say is nearer to the truth; and what is no image's name ends no pod
    definition.write_text(f"{definition.read_text()}service_header: X-Version\n")
    in_cluster.gateway(definition, tmp_path / "gateway", "", "", *images)
    text = (tmp_path / "gateway" / "nginx.conf").read_text()
    assert images[0] not in text and "$upstream_http_x_version" in text
    for mode, image in (("", 'a";'), ("off", "a")):
        in_cluster.gateway(definition, tmp_path / "gateway", mode, "", image, "")


def test_another_model_is_another_experiment(definition: Path, tmp_path: Path) -> None:
    in_cluster.fetch_arm(definition, "challenger", tmp_path / "models")
    assert production.hashes(tmp_path / "models") == production.hashes(tmp_path / "challenger")
    (tmp_path / "challenger" / production.MODEL).write_bytes(b"promoted")
    with pytest.raises(InputError, match="another experiment"):
        in_cluster.fetch_arm(definition, "challenger", tmp_path / "other")
    with pytest.raises(InputError, match="another experiment"):
        in_cluster.gateway(definition, tmp_path / "gateway", "")
    # the way back is open all the same
    (definition.parent / "definition.yaml").write_text("no definition")
    in_cluster.gateway(definition, tmp_path / "gateway", "off")
    assert "mirror" not in (tmp_path / "gateway" / "nginx.conf").read_text()


def test_a_definition_beside_the_gateways_has_to_agree(definition: Path, tmp_path: Path) -> None:
    gateway = read_gateway(definition)
    arms = {arm: getattr(gateway, arm).model for arm in ("champion", "challenger")}
    beside = {**GIVEN, **arms, "name": "ranking-1", "salt": "ranking-1"}
    (tmp_path / "definition.yaml").write_text(yaml.safe_dump(beside))
    in_cluster.gateway(definition, tmp_path / "gateway", "")
    (tmp_path / "definition.yaml").write_text(yaml.safe_dump({**beside, "salt": "ranking-2"}))
    with pytest.raises(RefusedError, match="the salt 'ranking-1', not 'ranking-2'"):
        in_cluster.gateway(definition, tmp_path / "gateway", "")


def test_the_log_is_shipped_until_the_end(tmp_path: Path) -> None:
    """The parts of minutes that are over at once, the last one when it is told to end."""
    write(tmp_path / "log", "exposures-2026-03-01T1207.jsonl", line())
    last = write(tmp_path / "log", "exposures-2999-03-01T1208.jsonl", line(request="1" * 32))
    command = [sys.executable, "-m", "mlops.cluster.in_cluster", "ship", str(tmp_path / "log"), str(tmp_path / "store")]
    with subprocess.Popen([*command, "--seconds", "0.1"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and "1 parts" in process.stdout.readline()
        assert [path.name for path in (tmp_path / "log").iterdir()] == [last.name]
        process.send_signal(signal.SIGTERM)
        assert "all there were" in process.stdout.read()
    assert process.returncode == 0
    assert len(read_exposures(tmp_path / "store").frame) == 2
