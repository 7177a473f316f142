"""MLFLOW_TRACKING_URI: what can name no place for records is told at once, in one line."""

from __future__ import annotations

import pytest

from matchmaking import tracking
from matchmaking.base.errors import InputError
from matchmaking.release import check


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("postgresql://user:secret-pw@host/db", "driver isn't installed"),
        ("mysql://user:secret-pw@host/db", "driver isn't installed"),
        ("postgresql+nosuch://user:secret-pw@host/db", "Can't load plugin"),
        ("sqlite:mlflow.db", "Could not parse"),
        ("sqlite://", "names no file"),
        ("http://", "names no host"),
        ("http:/host", "names no host"),
        ("http://host:99999999", "Port out of range"),
        ("nosuch://host", "neither a server nor a database"),
        ("mlruns", "neither a server nor a database"),
    ],
)
def test_an_unusable_uri_is_a_wrong_input(uri: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracking.client.cache_clear()
    for call in (tracking.check_uri, tracking.client, check._check_settings):
        with pytest.raises(InputError, match=reason) as told:
            call()
        assert "\n" not in str(told.value)
        assert "secret-pw" not in str(told.value)


@pytest.mark.parametrize("uri", ["", "http://host:5000", "https://user:pw@host/mlflow", "sqlite:////srv/mlflow.db"])
def test_a_usable_uri_is_let_pass(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracking.check_uri()
