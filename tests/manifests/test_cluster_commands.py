"""`python -m mlops.cluster` on the stand-ins of `machine.py`: submit, logs, status, down, and what ends `open`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from mlops.cluster.doors import DOORS, is_free
from tests.hostile import ESCAPES
from tests.manifests.conftest import ROOT
from tests.manifests.machine import Machine
from tests.services.conftest import free_ports


def test_submit_follows_a_run_through_a_forwarded_port(machine: Machine) -> None:
    # what `make open` has open is used as it is
    done = machine("submit", "--cluster", "existing", "evaluate", "--no-wait", MLOPS_KFP_HOST=machine.kfp.url)
    assert done.returncode == 0, done.stderr
    assert len(machine.kfp.runs) == 1
    assert not [call for call in machine.calls if "port-forward" in call]
    done = machine("submit", "--cluster", "existing", "evaluate", "--no-wait")
    assert done.returncode == 0, done.stderr
    assert len(machine.kfp.runs) == 2
    assert [call for call in machine.calls if "port-forward service/ml-pipeline-ui" in call]
    assert "--nonsense" in machine("submit", "--cluster", "existing", "evaluate", "--nonsense").stderr
    # its node has 7.6 GiB
    done = machine("submit", "--cluster", "existing", "evaluate", "--memory", "20Gi", MLOPS_KFP_HOST=machine.kfp.url)
    assert done.returncode == 2
    assert "no node could hold a step of 20Gi, as the largest has 7.6 GiB for pods" in done.stderr
    assert len(machine.kfp.runs) == 2
    listed = machine("schedule", "--cluster", "existing", "list", MLOPS_KFP_HOST=machine.kfp.url)
    assert listed.returncode == 0 and "no recurring run of ours" in listed.stdout


def test_logs_finds_the_newest_pod_of_a_step(machine: Machine) -> None:
    def pod(name: str, node: str, created: str) -> dict[str, Any]:
        annotations = {"workflows.argoproj.io/node-name": node}
        return {"metadata": {"name": name, "creationTimestamp": created, "annotations": annotations}}

    machine.behaviour["pods"] = [
        pod("old", "retrain-a.root.train.executor(0)", "2026-01-01T00:00:00Z"),
        pod("new", "retrain-b.root.train.executor(1)", "2026-01-02T00:00:00Z"),
        pod("driver", "retrain-b.root.train-driver(0)", "2026-01-03T00:00:00Z"),
        pod("other", "retrain-b.root.evaluate.executor(0)", "2026-01-04T00:00:00Z"),
    ]
    assert "log of new" in machine("logs", "--cluster", "existing", "train").stdout
    done = machine("logs", "--cluster", "existing", "nothing")
    assert done.returncode == 2 and "no pod of a step nothing" in done.stderr


def test_what_a_cluster_says_moves_no_terminal(machine: Machine) -> None:
    """Logs hold what steps print of the data; names, reasons and errors are the cluster's."""
    annotations = {"workflows.argoproj.io/node-name": "retrain-a.root.train.executor(0)"}
    pod = {"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": annotations}}
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": ESCAPES}}}
    machine.behaviour["pods"] = [{**pod, "status": {"containerStatuses": [waiting]}}]
    machine.behaviour["log"] = f"\x1b[31mred\x1b[0m\tand\r\ncity {ESCAPES}\n\nlast"
    done = machine("logs", "--cluster", "existing", "train")
    shown = ESCAPES.replace("\x1b[31m", "").encode("unicode_escape").decode()
    assert done.stdout == f"red and\ncity {shown}\n\nlast\n"
    told = machine("status", "--cluster", "existing")
    assert "  a: ImagePullBackOff \\x1b]0;OWNED" in told.stdout
    machine.behaviour["fails"] = {"kubectl --context mine get pods": f"no {ESCAPES}"}
    failed = machine("logs", "--cluster", "existing", "train")
    assert failed.returncode == 1 and "Error: kubectl" in failed.stderr and "OWNED" in failed.stderr
    for text in (done.stdout, told.stdout, failed.stderr):
        assert all(char.isprintable() or char == "\n" for char in text)


def test_down_of_an_existing_cluster_wants_a_yes(machine: Machine) -> None:
    done = machine("down", "--cluster", "existing")
    assert done.returncode == 2 and "--yes does it" in done.stderr
    assert not machine.calls
    assert machine("down", "--cluster", "existing", "--yes").returncode == 0
    assert [call for call in machine.calls if "delete namespace legalaid-mlops kubeflow" in call]
    assert machine("down").returncode == 0
    assert "kind delete cluster --name legalaid-mlops" in machine.calls


def test_makefile_has_the_targets() -> None:
    env = {**os.environ, "MAKEFLAGS": ""}
    for target, words in {
        "cluster-up": "CLUSTER=minikube .*mlops.cluster up",
        "submit PIPELINE=retrain ARGS=--no-wait": "mlops.cluster submit retrain --no-wait",
        "logs STEP=train": "mlops.cluster logs train",
        "cluster-down ARGS=--yes": "mlops.cluster down --yes",
        "open": "mlops.cluster open",
        "schedule": "mlops.cluster schedule list",
        "schedule ARGS=apply": "mlops.cluster schedule apply",
        "status": "mlops.cluster status",
    }.items():
        command = ["make", "--dry-run", "CLUSTER=minikube", *target.split()]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False)
        assert re.search(words, done.stdout), done.stdout + done.stderr


DRIVER = """
import json, os, sys
from mlops.cluster import commands, doors
ports = json.loads(os.environ["PORTS"])
doors.DOORS.update({name: (*door[:3], port) for (name, door), port in zip(doors.DOORS.items(), ports)})
sys.argv = ["cluster", *sys.argv[sys.argv.index("mlops.cluster") + 1 :]]
commands.main()
"""


def started(folder: Path) -> dict[int, str]:
    """The processes that have this folder in their environment, however they came to be whose child they are."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:150]
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for what is left in /proc")
@pytest.mark.parametrize(
    ("way", "by_make"),
    [
        (signal.SIGINT, False),
        (signal.SIGTERM, False),
        (signal.SIGHUP, False),
        (signal.SIGKILL, False),
        (signal.SIGTERM, True),
        (signal.SIGKILL, True),
        ("closed terminal", True),
    ],
    ids=str,
)
def test_whatever_ends_open_ends_its_port_forwards(machine: Machine, way: signal.Signals | str, by_make: bool) -> None:
    ports = free_ports(len(DOORS))
    driver = machine.folder / "driver.py"
    driver.write_text(DRIVER)
    _, env = machine.command(PORTS=json.dumps(ports), PYTHONPATH=str(ROOT))
    command = [sys.executable, str(driver), "-m", "mlops.cluster", "open", "--cluster", "existing"]
    if by_make:
        python = machine.bin / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} {driver} "$@"\n')
        python.chmod(0o755)
        make = str(shutil.which("make"))
        command = [make, "--old-file=setup", "open", "CLUSTER=existing", f"BIN={machine.bin}", f"WORK={machine.folder}"]
    ours, theirs = pty.openpty()
    with (machine.folder / "said").open("wb") as said:
        # a session of its own whose terminal is the other end: closed, it hangs up
        process = subprocess.Popen(
            command,
            env=env,
            cwd=ROOT,
            stdin=theirs,
            stdout=said,
            stderr=said,
            start_new_session=True,
            preexec_fn=_control,
        )
    os.close(theirs)
    try:
        deadline = time.monotonic() + 90
        while any(map(is_free, ports)):
            assert process.poll() is None and time.monotonic() < deadline, (machine.folder / "said").read_text()
            time.sleep(0.2)
        assert sum("port-forward" in line for line in started(machine.folder).values()) >= len(ports)
        if isinstance(way, signal.Signals):
            os.kill(process.pid, way)
        else:
            os.close(ours)
        process.wait(30)
        deadline = time.monotonic() + 20
        # a process that ends loses its environment first, and its sockets after
        while (left := started(machine.folder) or not all(map(is_free, ports))) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left
    finally:
        with contextlib.suppress(OSError):
            os.close(ours)
        for pid in started(machine.folder):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _control() -> None:
    """Makes the terminal at stdin that of the session; signals are heard, which the background and nohup pass over."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
