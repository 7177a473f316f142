"""The API of a Kubeflow Pipelines server, by KFP's own generated client, so that a failure is one line.

`kfp.Client` is not used: it waits without a limit, prints, and looks for credentials of clouds.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import kfp_server_api as kfp
import urllib3
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)

from matchmaking.base.errors import InputError, MlopsError
from matchmaking.base.escape import for_terminal
from matchmaking.base.redact import redact

# what a pipeline carries in the cluster needs it: security contexts, optional keys
OLDEST = (2, 17)
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0
# an address that nobody listens at is most often a mistake; a server that has answered before comes back
FIRST_PATIENCE, PATIENCE = 5.0, 60.0
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class ServerError(MlopsError):
    """The Kubeflow Pipelines server can't be reached, refuses, or isn't one.

    Attributes:
        status: HTTP's, where it has answered with an error.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UnsureError(ServerError):
    """A request was sent and no answer came, so nobody knows whether it was carried out."""


class _WebPageError(Exception):
    """An answer of HTML where JSON was due."""


class _Client(kfp.ApiClient):
    """KFP's client, which takes a web page for an empty answer, and hides why a connection failed."""

    def request(self, *args: Any, **kwargs: Any) -> Any:
        try:
            response = super().request(*args, **kwargs)
        except MaxRetryError as error:
            raise error.reason or error from None
        if "html" in (response.getheader("content-type") or "") or response.data.lstrip()[:1] == b"<":
            raise _WebPageError
        return response


class Server:
    """A Kubeflow Pipelines server.

    Attributes:
        host: its address, as in http://localhost:8080; that of the UI or of the API server.
        pipelines, uploads, runs, recurring, experiments: the parts of its API.
    """

    def __init__(self, host: str, read_seconds: float = READ_SECONDS) -> None:
        self.host = _address(host)
        self._seconds = (min(CONNECT_SECONDS, read_seconds), read_seconds)
        configuration = kfp.Configuration(host=self.host)
        configuration.retries = urllib3.Retry(0, redirect=3, raise_on_status=False)
        self._client = _Client(configuration)
        self.pipelines = kfp.PipelineServiceApi(self._client)
        self.uploads = kfp.PipelineUploadServiceApi(self._client)
        self.runs = kfp.RunServiceApi(self._client)
        self.recurring = kfp.RecurringRunServiceApi(self._client)
        self.experiments = kfp.ExperimentServiceApi(self._client)

    def check(self) -> None:
        """Makes sure that this is a Kubeflow Pipelines server, ready and new enough.

        Raises:
            ServerError: it isn't.
        """
        health = self._retrying(self._health, FIRST_PATIENCE)
        tag = str(health.get("apiServerTagName") or health.get("tag_name") or "")
        version = re.match(r"v?(\d+)\.(\d+)", tag)
        if version and (int(version[1]), int(version[2])) < OLDEST:
            raise ServerError(f"{self.host} is Kubeflow Pipelines {tag}; these pipelines need {OLDEST[0]}.{OLDEST[1]}")

    def read(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function of the API that may be called again: a server that is away is waited for.

        Raises:
            ServerError: it can't be reached, or refuses.
        """
        return self._retrying(lambda: self._call(function, *args, **kwargs), PATIENCE)

    def write(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function of the API once.

        Raises:
            UnsureError: no answer came.
            ServerError: it can't be reached, or refuses.
        """
        try:
            return self._call(function, *args, **kwargs)
        except (ConnectTimeoutError, NewConnectionError, _WebPageError) as error:
            raise self._told(error) from error
        except (HTTPError, kfp.ApiException) as error:
            unsure = isinstance(error, HTTPError) or error.status in _AGAIN
            raise self._told(error, UnsureError if unsure else ServerError) from error

    def log(self, run_id: str, node_id: str) -> str | None:
        """What a step has printed, as KFP keeps it with the run; None where there is nothing of it."""
        url = f"{self.host}/apis/v2beta1/runs/{run_id}/nodes/{node_id}/artifacts/main-logs:read"
        try:
            response = self._retrying(lambda: self._get(url), PATIENCE)
            data = base64.b64decode(response["data"])
            return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode(errors="replace")
        except (ServerError, KeyError, ValueError, binascii.Error, OSError):
            return None

    def _health(self) -> dict[str, Any]:
        try:
            health = self._get(f"{self.host}/apis/v2beta1/healthz")
        except kfp.ApiException as error:
            if error.status != 404:
                raise
            raise ServerError(f"{redact(self.host)} has no Kubeflow Pipelines v2 API; check --host") from error
        # the UI answers before the API server behind it does
        if "frontendTagName" in health and not health.get("apiServerReady"):
            raise kfp.ApiException(503, "the API server behind the UI isn't ready")
        return health

    def _get(self, url: str) -> dict[str, Any]:
        response = self._client.request("GET", url, headers={}, _request_timeout=self._seconds)
        try:
            found = json.loads(response.data)
        except ValueError as error:
            raise _WebPageError from error
        if not isinstance(found, dict):
            raise _WebPageError
        return found

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs, _request_timeout=self._seconds)

    def _retrying(self, function: Callable[[], Any], patience: float) -> Any:
        attempts = Retrying(
            retry=retry_if_exception(_passing),
            wait=wait_random_exponential(0.5, max=8),
            stop=stop_after_delay(patience),
            before_sleep=self._say_waiting,
            reraise=True,
        )
        try:
            return attempts(function)
        except (HTTPError, kfp.ApiException, _WebPageError) as error:
            raise self._told(error) from error

    def _say_waiting(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        # the first wait is short, and most often enough
        if error is not None and state.attempt_number == 2:
            print(for_terminal(f"waiting: {self._told(error)}"), file=sys.stderr, flush=True)

    def _told(self, error: BaseException, kind: type[ServerError] = ServerError) -> ServerError:
        """A failure in one line."""
        where = redact(self.host)
        if isinstance(error, NameResolutionError):
            return kind(f"{where}: no such host; --host or MLOPS_KFP_HOST is the address of Kubeflow Pipelines")
        if isinstance(error, NewConnectionError):
            return kind(f"{where} can't be reached ({_last(error)}); is `make open` running? (--host, MLOPS_KFP_HOST)")
        if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
            return kind(f"{where} has not answered within {self._seconds[1]:.0f} s")
        if isinstance(error, HTTPError):
            return kind(f"{where} has broken off the connection ({_last(error)})")
        if isinstance(error, _WebPageError):
            return kind(f"{where} answers with a web page, not as Kubeflow Pipelines' API does; check --host")
        assert isinstance(error, kfp.ApiException)
        if error.status in (401, 403):
            reason = f"refuses access ({error.status} {error.reason}); it needs a login that is not given"
            return kind(f"{where} {reason}", error.status)
        return kind(f"{where} answers {error.status} {_message(error) or error.reason}", error.status)


def _passing(error: BaseException) -> bool:
    """Whether trying again may help."""
    if isinstance(error, kfp.ApiException):
        return error.status in _AGAIN
    return isinstance(error, HTTPError) and not isinstance(error, NameResolutionError)


def _message(error: kfp.ApiException) -> str:
    """What the server says, in one line; empty where that is no message of its API."""
    try:
        body = json.loads(error.body or "")
        text = str(body.get("message") or body.get("error_message") or body.get("error") or "")
    except (ValueError, AttributeError, TypeError):
        return ""
    return redact(" ".join(text.split()))[:300]


def _last(error: BaseException) -> str:
    """The reason at the end of urllib3's messages."""
    return redact(str(error).rpartition(": ")[2].strip(" ()'\"")) or type(error).__name__


def _address(host: str) -> str:
    """An address as people give it: without the scheme, or copied from the browser."""
    host = host.strip().partition("#")[0].rstrip("/")
    if "://" not in host:
        host = f"http://{host}"
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", host):
        raise InputError(f"--host {redact(host)}: give it as http://name:port")
    return host
