"""A TCP proxy that breaks off, loses answers and changes bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """A TCP proxy with faults.

    Attributes:
        url: where it listens.
        target: the port it forwards to.
        bytes_up: cuts the connection once clients have sent so many bytes over all connections.
        cuts: how many connections it cuts for that; after them it forwards again.
        lose_answer_to: drops the answer to a request that begins like this, once.
        swap: what to replace on the way back, by bytes of the same length.
    """

    url: str
    target: int
    bytes_up: int | None = None
    cuts: float = float("inf")
    lose_answer_to: bytes = b""
    swap: tuple[bytes, bytes] | None = None
    sent: int = field(default=0, init=False)

    def forward(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            lose = threading.Event()
            back = threading.Thread(target=self._back, args=(server, client, lose), daemon=True)
            back.start()
            with contextlib.suppress(OSError):
                while data := client.recv(65536):
                    if self.lose_answer_to and data.startswith(self.lose_answer_to):
                        self.lose_answer_to = b""
                        lose.set()
                    self.sent += len(data)
                    if self.bytes_up is not None and self.sent > self.bytes_up and self.cuts > 0:
                        self.cuts -= 1
                        break
                    server.sendall(data)
            for end in (server, client):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            back.join()

    def _back(self, server: socket.socket, client: socket.socket, lose: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if lose.is_set() and not data.startswith(b"HTTP/1.1 100"):
                    break
                client.sendall(data.replace(*self.swap) if self.swap else data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
