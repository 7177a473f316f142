"""Whole files and their hashes."""

from __future__ import annotations

from pathlib import Path

from matchmaking.base.files import file_md5


def test_md5_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_md5(path) == "900150983cd24fb0d6963f7d28e17f72"
