"""https://, for reading: redirects lead to public addresses only."""

from __future__ import annotations

import io
import ipaddress
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from matchmaking.base.errors import InputError
from matchmaking.base.redact import redact
from matchmaking.storage import limits
from matchmaking.storage.backend import CHUNK, StorageError, Store, http_errors, refused

if TYPE_CHECKING:
    import requests


_REDIRECTS = frozenset({301, 302, 303, 307, 308})
MOST_REDIRECTS = 10


class Web(Store):
    def fetch(self, file: io.BufferedIOBase) -> str:
        import requests

        # a body that is compressed on its way would not be the file, whose md5 is the dataset's version
        headers = {"Accept-Encoding": "identity"}
        with http_errors(self.uri), requests.Session() as session, self._answer(session, headers) as answer:
            if not answer.ok:
                refused(self.uri, answer.status_code, answer.reason)
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise InputError(f"{redact(self.uri)} gives a web page, not a file")
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
            return str(answer.headers.get("ETag", ""))

    def size(self) -> int:
        import requests

        # of a GET, whose body isn't read: not every server answers a HEAD
        headers = {"Accept-Encoding": "identity"}
        with http_errors(self.uri), requests.Session() as session, self._answer(session, headers) as answer:
            if not answer.ok:
                refused(self.uri, answer.status_code, answer.reason)
            length = answer.headers.get("Content-Length", "")
        if not length.isdigit():
            raise StorageError(f"{redact(self.uri)}: its server doesn't tell how large it is")
        return int(length)

    def _answer(self, session: requests.Session, headers: dict[str, str]) -> requests.Response:
        """What the URI leads to. Its host is the user's choice; an address that it sends us to must be a public one.

        A server that is asked for a dataset could otherwise make a pod read its cloud's credentials, or a neighbour.
        """
        from requests.adapters import HTTPAdapter

        own = urlsplit(self.uri).hostname
        uri = self.uri
        for _ in range(MOST_REDIRECTS + 1):
            timeout = (limits.CONNECT_SECONDS, limits.READ_SECONDS)
            answer = session.get(uri, stream=True, timeout=timeout, headers=headers, allow_redirects=False)
            target = session.get_redirect_target(answer) if answer.status_code in _REDIRECTS else None
            if not target:
                return answer
            answer.close()
            uri = urljoin(uri, target)
            place = urlsplit(uri)
            if place.scheme not in ("http", "https") or not place.hostname:
                raise InputError(f"{redact(self.uri)} leads to {redact(uri)}, which is no web address")
            adapter = HTTPAdapter() if place.hostname == own else _public_adapter()
            for scheme in ("http://", "https://"):
                session.mount(scheme, adapter)
            if place.hostname != own:
                _must_be_public(place.hostname, self.uri)
        raise InputError(f"{redact(self.uri)} leads from one address to the next, more than {MOST_REDIRECTS} times")


def _must_be_public(host: str, uri: str) -> None:
    """Refuses a name that stands for an address inside a network; one that can't be resolved is left to a proxy."""
    try:
        found = {str(address[4][0]) for address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return
    for address in found:
        if not _public(address):
            raise InputError(
                f"{redact(uri)} leads to {host} ({address}), an address inside a network; give that address itself if "
                "you mean it"
            )


def _public(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_global


def _public_adapter() -> Any:
    """Makes requests of public addresses only: of what was connected to, whatever a name stood for a moment before."""
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Checked(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            connected = super()._new_conn()
            if not _public(address := connected.getpeername()[0]):
                connected.close()
                raise ValueError(f"it leads to {self.host} ({address}), an address inside a network")
            return connected

    class CheckedHTTPS(Checked, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Checked

    class PoolHTTPS(HTTPSConnectionPool):
        ConnectionCls = CheckedHTTPS

    adapter = HTTPAdapter()
    # not a proxy's pools, which resolve names themselves
    adapter.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": PoolHTTPS}
    return adapter
