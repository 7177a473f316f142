"""Experiments through the real nginx, in front of services that behave as production's does.

Times are printed, not judged, as the machine has other work to do; but for those that a caller could only reach by
waiting for the challenger. More than 400 lines: all of its tests share two running experiments.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import psutil
import pytest
import yaml

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.experiments.assignment import assign
from matchmaking.experiments.exposures import read_exposures, ship
from matchmaking.experiments.gateway import CHALLENGER, CONNECT, LARGEST, MOST_AT_ONCE, Gateway, write_gateway
from matchmaking.model import production
from mlops.local.gateway import change, up
from tests.assignment_fixtures import SHARES, vectors
from tests.services.conftest import S3, free_ports
from tests.services.load import PAYLOAD, Answer, ask, milliseconds, run_load
from tests.services.running_experiment import RATE, SERVICE, Experiment, Models, nginx, until, workers


@pytest.fixture(scope="module")
def models(incumbent: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Two folders of models; the challenger's finds everything likelier, so that its answers can be told apart."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: shutil.copytree(incumbent, folder / name) for name in ("champion", "challenger")}
    with h5py.File(found["challenger"] / production.MODEL, "r+") as file:
        biases: list[h5py.Dataset] = []
        file["model_weights"].visititems(
            lambda name, item: biases.append(item) if name.endswith("bias") and item.shape == (1,) else None
        )
        (bias,) = biases
        bias[...] = bias[...] + 1.5
    return found


@pytest.fixture(scope="module")
def shadow(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    nginx()
    experiment = Experiment(tmp_path_factory.mktemp("shadow run #1"), models)
    yield experiment
    experiment.end()


@pytest.fixture(scope="module")
def ab(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    nginx()
    folder = tmp_path_factory.mktemp("ab")
    shipped = folder / "experiment" / "shipped"
    experiment = Experiment(folder, models, "--mode", "ab", "--share", "1", "--ship", str(shipped))
    yield experiment
    experiment.end()


@pytest.fixture(autouse=True)
def healthy(models: Models) -> Iterator[None]:
    yield
    for folder in models.values():
        (folder / "control.json").unlink(missing_ok=True)


def tell(what: str, answers: list[Answer]) -> None:
    median, late = milliseconds(answers, 0.5, 0.99)
    statuses = dict(Counter(each.status for each in answers))
    print(f"{what:<34} {len(answers):5d} requests {statuses} median {median:6.1f} ms p99 {late:7.1f} ms")


# ------------------------------------------------------------------------------------------------------------ shadow


def test_answers_are_the_champions_byte_for_byte(shadow: Experiment) -> None:
    assert shadow.answer("champion") != shadow.answer("challenger")
    for payload in (PAYLOAD, {**PAYLOAD, "budget": 999, "client_name": "zoë"}, {"case_type": "Tax"}):
        direct = asyncio.run(ask(shadow.champion, None, payload))
        assert asyncio.run(ask(shadow.port, "client-1", payload)) == direct
    # an error of the service's is one, too; and what it doesn't know, it says
    assert direct[0] == 400
    assert asyncio.run(ask(shadow.port, None, PAYLOAD, "/other"))[0] == 404
    # the gateway's own addresses are nobody's, and no line of the log
    shadow.forget()
    for path in ("/-shadow", "/-challenger"):
        assert asyncio.run(ask(shadow.port, "client-1", PAYLOAD, path))[0] == 404
    shadow.new_rows(0)


def test_the_service_of_the_tests_answers_as_the_contract_says(shadow: Experiment, models: Models) -> None:
    from matchmaking.evidence.contract import Service

    expected = Service.load(models["champion"]).predict_match(PAYLOAD)
    assert json.loads(shadow.answer("champion")) == pytest.approx(expected, abs=1e-4)


def test_a_copy_has_the_number_of_its_request(shadow: Experiment, models: Models) -> None:
    shadow.forget()
    assert {each.status for each in run_load(shadow.port, RATE, 1)} == {200}
    rows = shadow.new_rows(2 * RATE)
    # the caller is told it, too
    connection = http.client.HTTPConnection("127.0.0.1", shadow.port, timeout=10)
    connection.request("POST", "/predict_match", json.dumps(PAYLOAD), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.read() == shadow.answer("champion")
    told = shadow.new_rows(2 * RATE + 2)[2 * RATE :]
    assert {row["request"] for row in told} == {answer.headers["X-Request-Id"]} and not told[0]["unit"]
    by_request: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_request.setdefault(row["request"], {})[row["variant"]] = row
    assert len(by_request) == RATE
    hashes = {variant: production.hashes(folder)[production.MODEL] for variant, folder in models.items()}
    for pair in by_request.values():
        assert set(pair) == {"champion", "challenger"}
        for variant, row in pair.items():
            assert row["model"] == hashes[variant] and row["mode"] == "shadow" and row["status"] == 200
            assert row["answered_by"] == "champion"
        assert pair["champion"]["unit"] == pair["challenger"]["unit"] != ""


def test_the_champions_latency_is_what_the_caller_waited_for(shadow: Experiment) -> None:
    """However slow the challenger is, though the line is written when the copy has ended."""
    delays = {"champion": 0.1, "challenger": 1.5}
    for variant, delay in delays.items():
        shadow.until_healthy(variant)
        shadow.ill(variant, delay=delay)
    shadow.forget()
    waited = []
    for _ in range(3):
        begun = time.monotonic()
        assert asyncio.run(ask(shadow.port, "client-1", PAYLOAD))[0] == 200
        waited.append(1e3 * (time.monotonic() - begun))
    rows = shadow.new_rows(6)
    for variant in delays:
        shadow.ill(variant)
    took = {variant: [row["latency_ms"] for row in rows if row["variant"] == variant] for variant in delays}
    print(f"\nthe caller waited {max(waited):.0f} ms at most; {took}")
    assert 1e3 * delays["champion"] <= min(took["champion"]) and max(took["champion"]) <= max(waited)
    assert min(took["challenger"]) >= 1e3 * delays["challenger"]


def mebibytes(experiment: Experiment, size: float, chunked: bool = False) -> int:
    """The status of a request whose body is of so many MiB, its client's id `visitor-0`."""
    text = json.dumps(PAYLOAD)[:-1] + ', "description": "'
    body = (text + "x" * (int(size * 2**20) - len(text) - 2) + '"}').encode()
    pieces = (body[each : each + 2**16] for each in range(0, len(body), 2**16)) if chunked else body
    connection = http.client.HTTPConnection("127.0.0.1", experiment.port, timeout=30)
    headers = {"Content-Type": "application/json", "X-Client-Id": "visitor-0"}
    connection.request("POST", "/predict_match", pieces, headers, encode_chunked=chunked)
    return connection.getresponse().status


def test_a_large_body_is_never_on_the_disk_and_a_larger_one_is_refused(shadow: Experiment) -> None:
    shadow.until_healthy("challenger")
    shadow.forget()
    folders = [shadow.folder / name for name in ("body", "proxy")]
    # a temporary file changes its folder's time, if it is gone at once, too
    before = [folder.stat().st_mtime_ns for folder in folders]
    for size in (0.2, LARGEST - 0.01):
        assert mebibytes(shadow, size) == 200
    # those with a line are these two, and their copies
    assert mebibytes(shadow, LARGEST + 0.01) == 413
    assert {row["status"] for row in shadow.new_rows(4)} == {200}
    # an answer that is larger than the buffers, to a caller who takes its time
    shadow.ill("champion", pad=16_000_000)
    with socket.create_connection(("127.0.0.1", shadow.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        body = json.dumps(PAYLOAD)
        slow.sendall(f"POST /predict_match HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n".encode())
        slow.sendall(f"Content-Type: application/json\r\n\r\n{body}".encode())
        time.sleep(1)
        assert sum(map(len, iter(lambda: slow.recv(2**16), b""))) > 16_000_000
    shadow.ill("champion")
    assert [folder.stat().st_mtime_ns for folder in folders] == before


@pytest.mark.parametrize("mode", ["off", "shadow", "ab"])
def test_nginx_takes_any_folder_that_is_not_refused(tmp_path: Path, mode: str) -> None:
    arm = {"address": "127.0.0.1:1", "model": "a" * 64}
    record = {"experiment": "a", "mode": mode, "share": 1, "champion": arm, "challenger": arm}
    for name in ("Program Files", "a\tb", "a#b", "zoë", "100%", "a[1]~&*"):
        path = write_gateway(Gateway.model_validate(record), tmp_path / name, "127.0.0.1:1")
        done = subprocess.run(
            [nginx(), "-t", "-e", "stderr", "-c", str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_nothing_that_happens_to_the_challenger_is_seen_by_a_caller(shadow: Experiment) -> None:
    right = shadow.answer("champion")

    def under_load(what: str, seconds: float = 2) -> list[Answer]:
        answers = run_load(shadow.port, RATE, seconds)
        tell(what, answers)
        assert {each.status for each in answers} == {200}
        assert {each.body for each in answers} == {right}
        # who waited for a copy would have waited longer than this
        assert max(each.seconds for each in answers) < CHALLENGER
        return answers

    print()
    under_load("challenger well")
    shadow.forget()
    shadow.ill("challenger", delay=60)
    # who would keep the connection: the next request doesn't wait for the copy of the one before
    connection = http.client.HTTPConnection("127.0.0.1", shadow.port, timeout=30)
    for _ in range(4):
        begun = time.monotonic()
        connection.request("POST", "/predict_match", json.dumps(PAYLOAD), {"Content-Type": "application/json"})
        assert connection.getresponse().read() == right
        assert time.monotonic() - begun < CHALLENGER / 2
    # more than are allowed to be under way: the others are not copied
    answers = under_load("challenger hangs")
    rows = shadow.new_rows(2 * (len(answers) + 4))
    statuses = Counter(row["status"] for row in rows if row["variant"] == "challenger")
    assert statuses[504] >= MOST_AT_ONCE and set(statuses) == {502, 504}
    shadow.ill("challenger", delay=0.3)
    under_load("challenger takes 300 ms longer")
    shadow.ill("challenger", fail=500)
    under_load("challenger fails")
    shadow.ill("challenger", crash=True)
    under_load("challenger crashes at each request")
    shadow.ill("challenger")
    shadow.until_healthy("challenger")
    timer = threading.Timer(1, lambda: shadow.service("challenger").kill())
    timer.start()
    under_load("challenger killed")
    assert any("The challenger has ended" in line for line in shadow.said)
    shadow.until_healthy("challenger")


# --------------------------------------------------------------------------------------------------------------- A/B


def test_assignments_through_the_gateway_are_the_test_vectors(ab: Experiment) -> None:
    bodies = {ab.answer("champion"): "champion", ab.answer("challenger"): "challenger"}
    definition = ab.folder / "gateway.yaml"
    for salt in {salt for salt, *_ in vectors()}:
        changed = yaml.safe_load(definition.read_text()) | {"salt": salt}
        definition.write_text(yaml.safe_dump(changed))
        mine = [(client, arms) for other, client, _, arms in vectors() if other == salt]
        for share in SHARES:
            change(ab.folder, "ab", share, print)
            ab.forget()
            for client, arms in mine:
                status, body = asyncio.run(ask(ab.port, client, PAYLOAD))
                assert status == 200 and bodies[body] == (arms[share] or "champion"), (client, share)
            logged = {client: arms[share] for client, arms in mine if arms[share]}
            assert {row["unit"]: row["variant"] for row in ab.new_rows(len(logged))} == logged
    definition.write_text(yaml.safe_dump({**changed, "salt": "ranking-1"}))


@pytest.mark.parametrize("share", [10, 50])
def test_shares_are_within_the_noise(ab: Experiment, share: float) -> None:
    done = ab.mlops("ramp", str(share))
    assert done.returncode == 0 and f"{share} % of the clients in each arm" in done.stdout
    ab.forget()
    clients = 600
    answers = run_load(ab.port, 3 * RATE, clients / (3 * RATE), clients=lambda number: f"visitor-{share}-{number}")
    assert {each.status for each in answers} == {200}
    expected = {each.client: assign("ranking-1", str(each.client), share) for each in answers}
    rows = ab.new_rows(sum(arm is not None for arm in expected.values()))
    assert {row["unit"]: row["variant"] for row in rows} == {client: arm for client, arm in expected.items() if arm}
    counts = Counter(row["variant"] for row in rows)
    noise = 4 * (clients * share / 100 * (1 - share / 100)) ** 0.5
    print(f"\n{share} % of {clients} clients: {dict(counts)}, 4 standard deviations are {noise:.0f}")
    for variant in ("champion", "challenger"):
        assert abs(counts[variant] - clients * share / 100) < noise


def test_who_names_no_client_has_the_champion_and_is_not_logged(ab: Experiment) -> None:
    right = ab.answer("champion")
    ab.forget()
    assert asyncio.run(ask(ab.port, "visitor-1", PAYLOAD, "/-challenger"))[0] == 404
    for client in (None, "", "Asha Rao", "asha@example.org", "x" * 65):
        for _ in range(3):
            assert asyncio.run(ask(ab.port, client, PAYLOAD)) == (200, right)
    asyncio.run(ask(ab.port, "visitor-after", PAYLOAD))
    (row,) = ab.new_rows(1)
    assert row["unit"] == "visitor-after"


def test_nothing_of_a_request_is_written_down(ab: Experiment) -> None:
    """Whatever becomes of it: answered, refused, by a challenger that is ill or by the champion."""
    payload = {**PAYLOAD, "client_name": "Asha Rao", "description": "Asha" * 40_000}
    for how in ({}, {"fail": 500}, {"crash": True}):
        ab.ill("challenger", **how)
        for number in range(6):
            asyncio.run(ask(ab.port, f"visitor-{number}", payload, "/predict_match?name=Asha"))
        asyncio.run(ask(ab.port, "Asha Rao", payload, "/Asha"))
    ab.ill("challenger")
    ab.until_healthy("challenger")
    # the services' own logs aside
    written = [path for path in ab.folder.rglob("*") if path.is_file() and path.name not in SERVICES]
    assert len(written) >= 4
    assert not [path for path in written if b"Asha" in path.read_bytes()]


SERVICES = ("champion.log", "challenger.log")


def test_the_services_version_is_what_answers_say_or_what_the_gateway_was_told(ab: Experiment) -> None:
    for variant in ab.models:
        ab.until_healthy(variant)
    record = ab.folder / "gateway.yaml"
    plain = yaml.safe_load(record.read_text())
    clients = {arm: next(f"v-{n}" for n in range(99) if assign("ranking-1", f"v-{n}", 50) == arm) for arm in ab.models}

    def logged(mode: Any, lines: int, **values: Any) -> list[tuple[str, str, object]]:
        """Of a request of each arm's client: the arm, the mode, and the version that its lines have."""
        record.write_text(yaml.safe_dump({**plain, **values}))
        change(ab.folder, mode, 50 if mode == "ab" else 0, print)
        ab.forget()
        for client in clients.values():
            assert asyncio.run(ask(ab.port, client, PAYLOAD))[0] == 200
        found = {(row["variant"], row["answered_by"], row.get("service") or "") for row in ab.new_rows(lines)}
        return sorted(found)

    assert logged("ab", 2) == [("challenger", "challenger", ""), ("champion", "champion", "")]
    header = {"service_header": "X-Service-Version"}
    ab.ill("champion", version="1.4")
    ab.ill("challenger", version="1.5-rc.1")
    assert logged("ab", 2, **header) == [("challenger", "challenger", "1.5-rc.1"), ("champion", "champion", "1.4")]
    assert logged("shadow", 4, **header) == [("challenger", "champion", "1.5-rc.1"), ("champion", "champion", "1.4")]
    # who answered in the challenger's place; and what is no version isn't logged
    ab.ill("challenger", version="1.5-rc.1", fail=503)
    assert logged("ab", 2, **header) == [("challenger", "champion", "1.4"), ("champion", "champion", "1.4")]
    ab.ill("challenger", version="for Asha Rao")
    assert logged("ab", 2, **header) == [("challenger", "challenger", ""), ("champion", "champion", "1.4")]
    image = f"registry.example:5000/legalaid/ml@sha256:{'0' * 64}"
    told = {arm: {**plain[arm], "service": image} for arm in ab.models}
    assert logged("ab", 2, **told) == [("challenger", "challenger", image), ("champion", "champion", image)]
    ab.ill("challenger", fail=503)
    assert logged("ab", 2, **told) == [("challenger", "champion", image), ("champion", "champion", image)]
    record.write_text(yaml.safe_dump(plain))
    change(ab.folder, "ab", 50, print)


def test_what_is_refused_before_it_is_anybodys_has_no_line(ab: Experiment) -> None:
    """And so doesn't put a client of the challenger's into the champion's arm as well."""
    change(ab.folder, "ab", 50, print)
    assert assign("ranking-1", "visitor-0", 50) == "challenger"
    ab.forget()
    before = (ab.folder / "body").stat().st_mtime_ns
    for chunked in (False, True):
        assert mebibytes(ab, LARGEST - 0.01, chunked) == 200
        assert mebibytes(ab, LARGEST + 0.01, chunked) == 413
    assert {(row["variant"], row["status"]) for row in ab.new_rows(2)} == {("challenger", 200)}
    assert (ab.folder / "body").stat().st_mtime_ns == before


def test_what_the_challenger_can_not_answer_the_champion_does(ab: Experiment) -> None:
    right = ab.answer("champion")
    mine = [f"visitor-{number}" for number in range(40) if assign("ranking-1", f"visitor-{number}", 50) == "challenger"]
    for how, status in (({"fail": 503}, 503), ({"crash": True}, 502)):
        ab.until_healthy("challenger")
        ab.ill("challenger", **how)
        ab.forget()
        for client in mine[:5]:
            assert asyncio.run(ask(ab.port, client, PAYLOAD)) == (200, right)
        for row in ab.new_rows(5):
            assert (row["variant"], row["status"], row["answered_by"]) == ("challenger", status, "champion")
        ab.ill("challenger")


def test_a_challenger_that_was_ended_for_good_costs_nobody_an_answer(ab: Experiment) -> None:
    """As where its Deployment on a cluster was scaled to 0: connections are refused, or, by some networks, dropped."""
    right = ab.answer("champion")
    theirs = next(f"visitor-{n}" for n in range(100) if assign("ranking-1", f"visitor-{n}", 50) == "challenger")
    assert ab.mlops("ramp", "50").returncode == 0
    # nobody starts it again
    ab.process.send_signal(signal.SIGSTOP)
    try:
        timer = threading.Timer(1, lambda: ab.service("challenger").kill())
        timer.start()
        answers = run_load(ab.port, RATE, 4)
        until(lambda: asyncio.run(ask(ab.challenger, None, PAYLOAD))[0] == 0)
        ab.forget()
        refused = run_load(ab.port, RATE, 2)
        assert {each.status for each in (*answers, *refused)} == {200}
        assert {each.body for each in refused} == {right}
        # at once: nobody waits for a connection
        assert milliseconds(refused, 0.5)[0] < 1000 * CONNECT
        rows = [row for row in ab.new_rows(len(refused)) if row["variant"] == "challenger"]
        assert rows and {(row["status"], row["answered_by"]) for row in rows} == {(502, "champion")}
        with socket.create_server(("127.0.0.1", ab.challenger), backlog=0), contextlib.ExitStack() as full:
            for _ in range(4):
                held = full.enter_context(socket.socket())
                held.setblocking(False)
                held.connect_ex(("127.0.0.1", ab.challenger))
            begun = time.monotonic()
            assert asyncio.run(ask(ab.port, theirs, PAYLOAD)) == (200, right)
            assert CONNECT * 0.9 <= time.monotonic() - begun < CHALLENGER
    finally:
        ab.process.send_signal(signal.SIGCONT)
    ab.until_healthy("challenger")


def test_no_request_is_lost_while_the_configuration_is_reloaded(ab: Experiment) -> None:
    """Ten reloads, while as many requests as can be are under way."""
    ab.until_healthy("challenger")

    def reload() -> None:
        for number in range(10):
            change(ab.folder, "ab", 50 if number % 2 else 10, lambda _: None)

    thread = threading.Thread(target=reload, daemon=True)
    thread.start()
    answers: list[Answer] = []
    while thread.is_alive():
        answers += run_load(ab.port, RATE, 2)
    tell("ten reloads", answers)
    assert Counter(each.status for each in answers) == {200: len(answers)}


def test_a_champion_that_is_killed_and_comes_back_loses_only_its_own(ab: Experiment) -> None:
    """Every second request asks the champion directly: what the gateway loses, the service would have lost, too."""
    gone: list[float] = []
    start = time.perf_counter()

    def kill() -> None:
        gone.append(time.perf_counter() - start)
        ab.service("champion").kill()
        ab.until_healthy("champion")
        gone.append(time.perf_counter() - start)

    timer = threading.Timer(1, kill)
    timer.start()
    # of the champion's arm, which the challenger doesn't answer for
    client = next(f"visitor-{n}" for n in range(100) if assign("ranking-1", f"visitor-{n}", 50) == "champion")
    answers: list[Answer] = []
    offsets: list[float] = []
    while timer.is_alive() or len(gone) < 2 or time.perf_counter() - start < gone[1] + 1:
        offsets += [time.perf_counter() - start] * RATE
        answers += run_load(ab.port, RATE, 1, clients=lambda _: client)
    timer.join()
    killed, back = gone
    outside = [
        (offset + each.begun, each.status)
        for offset, each in zip(offsets, answers, strict=True)
        # under way when it was killed: its own
        if offset + each.begun + each.seconds < killed or offset + each.begun > back
    ]
    lost = sum(each.status != 200 for each in answers)
    print(f"\nchampion away for {back - killed:.1f} s: {lost} of {len(answers)} requests failed, all within it")
    assert len(outside) > RATE and {status for _, status in outside} == {200}
    assert lost > 0


def test_stop_is_the_way_back(ab: Experiment) -> None:
    right = ab.answer("champion")
    change(ab.folder, "ab", 50, print)
    services = {variant: ab.service(variant).pid for variant in ab.models}
    finished = threading.Event()
    answers: list[Answer] = []

    def under_load() -> None:
        while not finished.is_set():
            answers.extend(run_load(ab.port, RATE, 1))

    thread = threading.Thread(target=under_load, daemon=True)
    thread.start()
    time.sleep(0.5)
    begun = time.monotonic()
    done = ab.mlops("stop")
    print(f"\nmlops experiment stop: {time.monotonic() - begun:.1f} s; {done.stdout.strip()}")
    assert done.returncode == 0 and "every request goes to the champion" in done.stdout
    until(lambda: all("shutting down" not in " ".join(each.cmdline()) for each in workers(ab)))
    ab.forget()
    for number in range(40):
        assert asyncio.run(ask(ab.port, f"visitor-{number}", PAYLOAD)) == (200, right)
    finished.set()
    thread.join()
    assert {each.status for each in answers} == {200}
    ab.new_rows(0)
    assert {variant: ab.service(variant).pid for variant in ab.models} == services
    again = ab.mlops("ramp", "10")
    assert again.returncode == 2 and "was stopped" in again.stderr


# ------------------------------------------------------------------------------------------------------------ the end


def end(experiment: Experiment, how: signal.Signals) -> None:
    """Ends it, and finds that it has left no process."""
    processes = psutil.Process(experiment.process.pid).children(recursive=True)
    assert len(processes) >= 5
    experiment.process.send_signal(how)
    experiment.process.wait(30)
    until(lambda: not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE])
    experiment.listener.join(5)


def test_ctrl_c_ends_all_and_ships_the_log(ab: Experiment) -> None:
    rows = len(ab.rows())
    end(ab, signal.SIGINT)
    assert ab.process.returncode == 130 and ab.said[-1] == "Ended\n"
    assert not list((ab.folder / "log").iterdir())
    assert len(read_exposures(ab.folder / "shipped").frame) == rows > 1000


def test_killed_it_leaves_nothing_but_its_log(shadow: Experiment) -> None:
    rows = len(shadow.rows())
    end(shadow, signal.SIGKILL)
    assert len(shadow.rows()) == rows > 1000


def test_what_is_wrong_is_said_in_a_line(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nginx()
    (port,) = free_ports(1)

    def refused(folders: Models = models, service: str = SERVICE, share: float = 1, taken: int = 0) -> str:
        with pytest.raises(MlopsError) as error:
            up(("a", "ab", share), folders, service, tmp_path / "experiment", port, (taken, 0), "", print)
        return str(error.value)

    assert "needs {port}" in refused(service="service {models}")
    assert "encoder.pkl" in refused({**models, "challenger": tmp_path})
    assert "ended before it served (7)" in refused(service="sh -c 'exit 7' {models} {port}")
    assert "can't be started" in refused(service="no-such-program {models} {port}")
    assert "share" in refused(share=60)
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        assert f"port {number} is taken" in refused(taken=number)
    with pytest.raises(InputError, match="holds no experiment"):
        change(tmp_path, "off", 0, print)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    assert "nginx isn't installed" in refused()


def test_the_log_goes_to_an_object_store(s3: S3, tmp_path: Path) -> None:
    from matchmaking.live.logs import fetch_log
    from tests.exposure_fixtures import line, write

    write(tmp_path / "log", "exposures-2026-03-01T1207.jsonl", line(), line(request="1" * 32))
    assert ship(tmp_path / "log", "s3://candidates/exposures") == 1
    assert not list((tmp_path / "log").iterdir())
    assert len(read_exposures(fetch_log("s3://candidates/exposures", tmp_path / "here")).frame) == 2
