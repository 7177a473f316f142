"""Memory by rows: what steps take at 1.2 million, and what that means at twelve."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from matchmaking.data.sample import generate
from pipelines import memory
from pipelines.memory import HEADROOM, NEEDS

ROWS = 1_200_000
# MB at ROWS, of what `NEEDS` doesn't say: `data generate`, which holds its numbers and works out the best possible
# scores, and a split that keeps the order of the rows
OWN = {"generate": 480, "split": 420}
STEPS = {
    "generate": "from matchmaking.data.sample import generate_file as f; f(P/'pairs.csv', ROWS, 0)",
    "validate": "from matchmaking.inputs.validate import validate_file as f;"
    "f(P/'pairs.csv', P/'none', P/'pairs.parquet', source='')",
    # all rows in one group, and texts as they are
    "write": "import pyarrow.parquet as pq; table = pq.read_table(P/'pairs.parquet');"
    "pq.write_table(table, P/'whole.parquet', row_group_size=ROWS, use_dictionary=False)",
    "validate parquet": "from matchmaking.inputs.validate import validate_file as f;"
    "f(P/'whole.parquet', P/'none', P/'again.parquet', source='')",
    "split": "from matchmaking.inputs.split import split_file as f;"
    "f(P/'pairs.parquet', P/'none', P/'train', P/'test', P/'lineage.h5', 'auto', '')",
    "drift": "from matchmaking.data.drift import drift_files as f; pairs = P/'pairs.parquet';"
    "f(pairs, pairs, self_comparison=True, seed=0, result_path=P/'d.json', page_path=P/'d.html')",
}


# not ru_maxrss, which begins with what the process had that started this one: here, of all tests before it
TELL_PEAK = (
    "(P / 'peak').write_text(next(line.split()[1] for line in open('/proc/self/status') if line[:6] == 'VmHWM:'))"
)


@pytest.mark.parametrize("step", sorted(set(NEEDS) - {"observe", "experiment"}))
def test_no_step_is_reckoned_to_need_more_than_4_gib_at_twelve_million_rows(step: str) -> None:
    assert NEEDS[step].at(12_000_000) * 1e6 <= 4 * 2**30


def test_steps_keep_within_what_is_reckoned_with(tmp_path: Path) -> None:
    """Each in a process of its own, one after the other: the memory, and that all rows come through."""
    peaks = {}
    for step, code in STEPS.items():
        program = f"from pathlib import Path; P = Path({str(tmp_path)!r}); ROWS = {ROWS}; {code}; {TELL_PEAK}"
        child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert child.returncode == 0, f"{step}: {child.stderr}"
        peaks[step] = int((tmp_path / "peak").read_text()) * 1024 / 1e6
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "pairs.parquet").read_bytes()
    del peaks["write"]
    for step, peak in peaks.items():
        most = OWN[step] if step in OWN else NEEDS[step.split()[0]].at(ROWS)
        assert peak <= most * HEADROOM, f"{step} took {peak:.0f} MB, {most:.0f} are reckoned with"


def test_memory_is_asked_for_by_the_size_of_a_log(tmp_path: Path) -> None:
    """A log is a folder of parts: all of them count."""
    for part in ("2026-01", "2026-02"):
        path = tmp_path / "log" / f"{part}.parquet"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"0" * 40_000_000)
    chosen, why = memory.choose("observe", {"predictions": str(tmp_path / "log")})
    assert chosen == memory.of_rows("observe", 2_000_000) and "2,000,000 rows" in why
    single, _ = memory.choose("observe", {"predictions": str(tmp_path / "log" / "2026-01.parquet")})
    assert single == memory.of_rows("observe", 1_000_000)


def test_memory_is_asked_for_by_the_format_and_all_parts_of_a_dataset(tmp_path: Path) -> None:
    """A Parquet file has more rows than a CSV file of its size."""
    sizes = {
        "one.csv": 2_000_000 * 81,
        "one.csv.gz": 2_000_000 * 24,
        "one.parquet": 2_000_000 * 13,
        # as Spark names a folder
        "pairs.parquet/_SUCCESS": 10**9,
        "pairs.parquet/part-0.parquet": 1_500_000 * 13,
        "pairs.parquet/old/part-1.parquet": 500_000 * 13,
        # a version in DVC's remote, a CSV file without an ending
        "files/md5/ab/cdef": 2_000_000 * 81,
    }
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    for uri in (
        *list(sizes)[:3],
        "pairs.parquet",
        "pairs.parquet/",
        "on?.parquet",
        "one.parquet*",
        "files/md5/ab/cdef",
    ):
        chosen, why = memory.choose("retrain", {"data": f"{tmp_path}/{uri}", "production_data": f"{tmp_path}/one.csv"})
        assert chosen == memory.of_rows("retrain", 2_000_000) and "2,000,000 rows" in why, uri
    for uri in ("none.parquet", "none", "*.none", "files/md5", "**/one.csv"):
        assert "isn't known here" in memory.choose("retrain", {"data": f"{tmp_path}/{uri}"})[1]


@pytest.mark.parametrize("form", ["{}/pairs.parquet", "file://{}/pairs.parquet", "{}/unnamed", "{}/parts", "{}/p*s/*"])
def test_parquet_says_itself_how_many_rows_there_are(tmp_path: Path, form: str) -> None:
    """Whatever it takes for a row, and whatever it is called."""
    pairs = generate(3_000, seed=0)
    pairs.to_parquet(tmp_path / "pairs.parquet", index=False)
    pairs.to_parquet(tmp_path / "unnamed", index=False)
    (tmp_path / "parts").mkdir()
    # more of them than are asked: the others are reckoned by what these have
    parts = 2 * memory.ASKED
    for number in range(parts):
        pairs.iloc[: 3_000 // parts].to_parquet(tmp_path / "parts" / f"{number}.parquet", index=False)
    assert (tmp_path / "pairs.parquet").stat().st_size / 3_000 > 2 * memory.ROW_BYTES[".parquet"]
    assert memory._rows(form.format(tmp_path)) == pytest.approx(3_000)


def test_a_file_here_whose_name_says_nothing_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"x" * 81_000)
    (tmp_path / "packed").write_bytes(gzip.compress(b"x" * 81_000, compresslevel=0))
    assert memory._rows(str(tmp_path / "plain")) == 1_000
    assert memory._rows(str(tmp_path / "packed")) == (tmp_path / "packed").stat().st_size / memory.ROW_BYTES[".csv.gz"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an HTTP server for the folder."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    ("address", "row_bytes"),
    [
        ("a.parquet?X-Amz-Signature=abc&name=b.csv", 13),
        ("a.csv.gz?sig=abc", 24),
        ("a.csv?sig=b.parquet", 81),
        # nobody knows: it may be Parquet
        ("export?file=a.csv", 13),
        # a version in DVC's remote
        ("files/md5/ab/0123456789abcdef0123456789abcd?sig=abc", 81),
    ],
)
def test_the_ending_of_a_signed_address_is_that_of_its_path(
    site: str, tmp_path: Path, address: str, row_bytes: float
) -> None:
    path = tmp_path / address.partition("?")[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1_000 * int(row_bytes))
    assert memory._rows(f"{site}/{address}") == 1_000


def test_a_log_of_no_known_ending_may_be_the_smallest(site: str, tmp_path: Path) -> None:
    for name in ("log.jsonl", "log"):
        (tmp_path / name).write_bytes(b"x" * 480_000)
    assert memory._rows_of_log(f"{site}/log.jsonl?sig=a.parquet", memory.LOG_ROW_BYTES) == 1_000
    assert memory._rows_of_log(f"{site}/log", memory.LOG_ROW_BYTES) == 12_000
