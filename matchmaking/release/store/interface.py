"""What the promotion needs of the place where production is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from matchmaking.base.errors import MlopsError

STATE = ".mlops"
LOCK = f"{STATE}/lock"


class ChangedError(MlopsError):
    """A file isn't the one that was to be replaced."""


@dataclass(frozen=True)
class Stored:
    """A file's bytes; `tag` changes when they do."""

    data: bytes
    tag: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


class Store(Protocol):
    """What the promotion needs of the place where production is; names are relative to it, with `/`."""

    def lock(self, holder: Mapping[str, Any], say: Callable[[str], None] = print) -> AbstractContextManager[None]:
        """Keeps every other promotion out; RefusedError where one is under way. Ends with its process."""

    def check(self, names: Iterable[str]) -> None:
        """InputError for a file that `replace` would not replace; writes nothing."""

    def read(self, name: str) -> Stored | None:
        """A file as it is now; None where there is none."""

    def replace(self, name: str, data: bytes, tag: str | None) -> None:
        """Replaces a file whole, if it is still the one of `tag` (None: if there is none); else ChangedError."""

    def put(self, name: str, data: bytes) -> None:
        """Writes a file whole, whatever is there."""

    def append(self, name: str, line: str) -> None:
        """Adds a line to a file that only ever grows."""

    def delete(self, name: str) -> None:
        """Deletes a file or a folder of files; one that isn't there is fine."""
