"""The quickstart's commands, as written, one after the other, in a copy of this checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_quickstart(tmp_path: Path) -> None:
    """The copy has this checkout's .venv, so what is installed isn't installed anew."""
    commands = "".join(BLOCK.findall((ROOT / "docs/quickstart.md").read_text()))
    assert "make run" in commands
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    # what isn't committed yet too
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    # older than what was installed from them: else the copy would be installed into the .venv that it borrows
    for name in (clone / "pyproject.toml", *(clone / "requirements").iterdir()):
        os.utime(name, (0, 0))
    (clone / ".venv").symlink_to(ROOT / ".venv")
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "PIP_CONFIG_FILE", "PIP_INDEX_URL", "SSL_CERT_FILE")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | {
        # a person's name for the commits of data versions
        **{f"GIT_{who}_NAME": "A Newcomer" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "newcomer@example.org" for who in ("AUTHOR", "COMMITTER")},
        "COLUMNS": "100",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, said
    assert "The candidate is better than production" in said
    # whether the scores' distance reaches their threshold, too, is up to the processor production was trained on
    assert re.search(r"these columns have: consultation_fee\.|\(score drifted\): consultation_fee, score\.", said)
    assert "A new month of pairs" in said
    assert "dashboard work/dashboard.html" in said and (clone / "work/dashboard.html").stat().st_size > 900_000
