"""A Kubeflow Pipelines server that is none, is away or loses answers; never two runs for one submission."""

from __future__ import annotations

import socket
import time

import pytest

from mlops.kubeflow.follow import follow
from mlops.kubeflow.kfp_api import Server, ServerError, UnsureError
from mlops.kubeflow.submit import start, upload
from tests.kfp_server import FakeKfp, Fault
from tests.submit_fixtures import submitted

pytestmark = pytest.mark.usefixtures("quick")

# what goes wrong on the way


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (401, "refuses access (401"),
        (403, "refuses access (403"),
        (404, "has no Kubeflow Pipelines v2 API"),
        (503, "answers 503"),
        ("html", "a web page"),
        ("slow", "has not answered within"),
    ],
)
def test_a_server_that_is_none(kfp: FakeKfp, impatient: None, fault: int | str, words: str) -> None:
    kfp.faults.append(Fault("GET", "healthz", fault, times=99))
    with pytest.raises(ServerError) as told:
        Server(kfp.url, read_seconds=0.5).check()
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert told.value.exit_code == 1


@pytest.mark.usefixtures("impatient")
def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match=r"can't be reached .*refused.*make open"):
        Server(f"localhost:{port}/#/pipelines").check()
    with pytest.raises(ServerError, match="no such host"):
        Server("http://nosuch.invalid").check()


def test_an_old_server_and_one_that_isnt_ready(kfp: FakeKfp, impatient: None) -> None:
    for kfp.behind_ui in (True, False):
        kfp.version = "2.5.0"
        with pytest.raises(ServerError, match=r"is Kubeflow Pipelines 2\.5\.0; these pipelines need 2\.17"):
            Server(kfp.url).check()
        for kfp.version in ("2.17.0", "unknown", "v3.0.1"):
            Server(kfp.url).check()
    kfp.behind_ui, kfp.ready = True, False
    with pytest.raises(ServerError, match="isn't ready"):
        Server(kfp.url).check()


def test_a_short_outage_is_waited_out(kfp: FakeKfp) -> None:
    kfp.faults += [Fault("GET", "/runs/", 503, times=2), Fault("GET", "/runs/", "lost"), Fault("GET", "healthz", 502)]
    server = Server(kfp.url)
    server.check()
    assert follow(server, submitted(server)).state == "SUCCEEDED"
    assert kfp.faults == []


@pytest.mark.parametrize(("method", "path"), [("GET", "/pipelines$"), ("POST", "/runs$")])
def test_a_login_page_in_the_middle(kfp: FakeKfp, method: str, path: str) -> None:
    """KFP's own client takes a web page for an empty answer: no pipelines, or a run without an id."""
    kfp.faults.append(Fault(method, path, "html", times=99))
    server = Server(kfp.url)
    with pytest.raises(ServerError, match="a web page"):
        submitted(server)
    assert kfp.runs == {}


# never two runs for one submission


@pytest.mark.parametrize("kind", ["lost", 503, "slow"])
def test_an_answer_that_is_lost_makes_no_second_run(kfp: FakeKfp, kind: int | str) -> None:
    """The server has made the run (lost, slow) or hasn't (503): in the end there is one."""
    server = Server(kfp.url, read_seconds=1)
    version = upload(server, "evaluate")
    kfp.faults.append(Fault("POST", "/runs$", kind))
    run = start(server, version, {"data": "d", "production": "p"})
    if kind == "slow":
        time.sleep(2)
    assert list(kfp.runs) == [run.run_id]
    assert kfp.count("POST", "/runs$") == (2 if kind == 503 else 1)


def test_it_gives_up_in_the_end(kfp: FakeKfp) -> None:
    server = Server(kfp.url)
    version = upload(server, "evaluate")
    kfp.faults.append(Fault("POST", "/runs$", 503, times=99))
    with pytest.raises(UnsureError, match="answers 503 the server said no"):
        start(server, version, {"data": "d", "production": "p"})
    assert kfp.count("POST", "/runs$") == 3


def test_a_refusal_is_told_in_the_servers_words(kfp: FakeKfp) -> None:
    server = Server(kfp.url)
    version = upload(server, "evaluate")
    with pytest.raises(ServerError, match=r"answers 400 parameters \['nonsense'\] are not in the pipeline"):
        start(server, version, {"nonsense": 1})
    assert kfp.count("POST", "/runs$") == 1
