"""A machine for `python -m mlops.cluster`: stand-ins for kubectl, kind, minikube, docker and make on the PATH.

No cluster can be had here, so what tests on it show is what is asked of those programs, in which order and with which
input, and what is said when one is missing or fails. Kubeflow Pipelines is the stand-in of `tests/kfp_server.py`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from matchmaking.base.settings import image
from mlops.cluster import images
from tests.kfp_server import FakeKfp
from tests.manifests.conftest import OVERLAYS, ROOT, Build

PROGRAMS = ("kubectl", "kind", "minikube", "docker", "make", "k3d")
CRDS = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubeflow"}},
    {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "a.argoproj.io"},
    },
]


class Machine:
    """A PATH with the stand-ins, and what was asked of them."""

    def __init__(self, folder: Path, build: Build, kfp: FakeKfp) -> None:
        self.folder, self.bin, self.kfp = folder, folder / "bin", kfp
        self.bin.mkdir()
        script = Path(__file__).with_name("programs.py").read_text()
        for name in PROGRAMS:
            (self.bin / name).write_text(f"#!{sys.executable} -SE\n{script}")
            (self.bin / name).chmod(0o755)
        for tool in ("git", "sh", "sleep"):
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        built = {}
        for name in OVERLAYS:
            built[f"manifests/{name}"] = self._file(name, build(name))
        built["manifests/kfp/cluster-scoped"] = self._file("crds", CRDS)
        address = urlsplit(kfp.url)
        self.behaviour: dict[str, Any] = {
            "built": built,
            "context": "mine",
            "kfp": [address.hostname, address.port],
            "node_images": [image(kind) for kind in images.IMAGES],
        }

    def _file(self, name: str, objects: list[Any]) -> str:
        path = self.folder / f"{name.replace('/', '-')}.yaml"
        path.write_text(yaml.dump_all(objects, Dumper=yaml.CSafeDumper))
        return str(path)

    def command(self, *arguments: str, **env: str) -> tuple[list[str], dict[str, str]]:
        (self.folder / "behaviour.json").write_text(json.dumps(self.behaviour))
        mine = {"PATH": str(self.bin), "STANDIN_STATE": str(self.folder), "HOME": str(self.folder), "COLUMNS": "100"}
        mine["WORK"] = str(self.folder / "work")
        return [sys.executable, "-m", "mlops.cluster", *arguments], {**mine, **env}

    def __call__(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command, given = self.command(*arguments, **env)
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=given, timeout=120, check=False)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [" ".join(json.loads(line)["call"]) for line in lines]

    def applied(self) -> list[dict[str, Any]]:
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        inputs = [json.loads(line)["stdin"] for line in lines]
        return [each for text in inputs if text for each in json.loads(text)["items"]]

    def forget(self) -> None:
        (self.folder / "calls.jsonl").unlink()


def order(calls: list[str], *wanted: str) -> None:
    """Each is in the calls, after the one before."""
    place = -1
    for each in wanted:
        found = [index for index, call in enumerate(calls) if re.search(each, call) and index > place]
        assert found, f"no {each} after call {place} of:\n" + "\n".join(call[:150] for call in calls)
        place = found[0]
