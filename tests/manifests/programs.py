"""A stand-in for kubectl, kind, minikube, docker and make, by the name it is called: notes each call, keeps objects.

Everything applied is there at once and ready, but for what the file `behaviour.json` says.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

STATE = Path(os.environ["STANDIN_STATE"])


def main() -> None:
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    behaviour = json.loads((STATE / "behaviour.json").read_text())
    stdin = sys.stdin.read() if "--filename=-" in arguments else ""
    with (STATE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps({"call": [name, *arguments], "stdin": stdin}) + "\n")
    for fails, said in behaviour.get("fails", {}).items():
        if " ".join([name, *arguments]).startswith(fails):
            sys.exit(said)
    if name == "kubectl":
        if arguments[0] == "--context":
            arguments = arguments[2:]
        print(kubectl(arguments, stdin, behaviour))
    elif (name, arguments[:2]) == ("docker", ["image", "inspect"]):
        print(behaviour.get("image_ids", {}).get(arguments[-1], "sha256:" + arguments[-1]))
    elif name == "docker":
        print(json.dumps({"MemTotal": behaviour.get("docker_gib", 8) * 2**30, "NCPU": behaviour.get("docker_cpus", 4)}))
    elif (name, arguments[:2]) == ("kind", ["get", "clusters"]):
        print("\n".join(load("clusters", [])))
    elif (name, arguments[:2]) == ("kind", ["create", "cluster"]):
        save("clusters", [arguments[3]])
    elif (name, arguments[:2]) == ("kind", ["delete", "cluster"]):
        save("clusters", [])


def load(name: str, default: Any) -> Any:
    path = STATE / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else default


def save(name: str, content: Any) -> None:
    (STATE / f"{name}.json").write_text(json.dumps(content))


def kubectl(arguments: list[str], stdin: str, behaviour: Any) -> str:
    command = arguments[0]
    if command == "version":
        return json.dumps({"clientVersion": {"major": "1", "minor": behaviour.get("kubectl_minor", "32+")}})
    if command == "kustomize":
        return Path(behaviour["built"][arguments[1]]).read_text()
    if arguments[:2] == ["config", "current-context"]:
        return behaviour["context"]
    objects = load("objects", {})
    if command == "apply":
        for each in json.loads(stdin)["items"]:
            if "stringData" in each:
                texts = each.pop("stringData")
                each["data"] = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
            objects["/".join([each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]])] = each
        save("objects", objects)
    if command == "get":
        if arguments[1] == "nodes":
            allocatable = {"cpu": str(behaviour.get("cpus", 4)), "memory": behaviour.get("memory", "8000000Ki")}
            images = [{"names": [f"docker.io/{name}"]} for name in behaviour["node_images"]]
            return json.dumps({"items": [{"status": {"allocatable": allocatable, "images": images}}]})
        if "--all-namespaces" in arguments:
            return json.dumps({"items": behaviour.get("others", [])})
        kind, namespace = arguments[1].rstrip("s").capitalize(), arguments[3]
        kind = {"Cronjob": "CronJob"}.get(kind, kind)
        found = [each for key, each in objects.items() if key.startswith(f"{kind}/{namespace}/")]
        for each in [each for each in found if each["metadata"]["name"] in behaviour.get("scaled", [])]:
            each["spec"]["replicas"] = 0
        return json.dumps(
            {"items": [{**each, "status": status(each, behaviour)} for each in found] + extra(kind, behaviour)}
        )
    if command == "delete" and arguments[1] == "job":
        save("objects", {key: each for key, each in objects.items() if not key.startswith("Job/")})
    if command == "logs":
        return str(behaviour.get("log", f"log of {arguments[1]}"))
    if command == "port-forward":
        forward(int(arguments[2].split(":")[0]), behaviour["kfp"])
    return ""


def status(each: Any, behaviour: Any) -> Any:
    name = each["metadata"]["name"]
    if each["kind"] == "Job":
        state = "Failed" if name in behaviour.get("failed", []) else "Complete"
        return {"conditions": [{"type": state, "status": "True"}]}
    if name in behaviour.get("scaled", []):
        return {"observedGeneration": 1}
    count = 0 if name in behaviour.get("waiting", []) else 1
    return {"observedGeneration": 1, "replicas": 1, "updatedReplicas": count, "availableReplicas": count}


def extra(kind: str, behaviour: Any) -> list[Any]:
    return behaviour.get("pods", []) if kind == "Pod" else []


def forward(port: int, target: list[Any]) -> None:
    server = socket.create_server(("127.0.0.1", port))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    while True:
        client, _ = server.accept()
        try:
            there = socket.create_connection(tuple(target))
        except OSError:
            client.close()
            continue
        for ends in ((client, there), (there, client)):
            threading.Thread(target=pump, args=ends, daemon=True).start()


if __name__ == "__main__":
    main()
