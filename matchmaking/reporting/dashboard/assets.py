"""The page's script: Vega, Vega-Lite and vega-embed as one file, with the charts' specifications.

Altair and vl-convert make it, which take 95 MB between them and some seconds. So it is made once, `python -m
matchmaking.reporting.dashboard.assets`, by `make setup` and while images are built; then a page needs nothing but that
file, of 1 MB. Where it isn't there, or is of other charts, the first page makes it, and keeps it for the next ones.
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from matchmaking.base.errors import MlopsError
from matchmaking.base.files import written_whole

BUILT = Path(__file__).with_name("assets.json")
CHARTS = Path(__file__).with_name("charts.py")


@dataclass(frozen=True)
class Assets:
    """What the page's script needs.

    Attributes:
        library: JavaScript that defines `vegaEmbed`.
        specifications: Vega, by chart; compiled from Vega-Lite here, so that a phone doesn't.
        versions: of what made them.
        charts: sha256 of the module that describes the charts.
    """

    library: str
    specifications: dict[str, Any]
    versions: dict[str, str]
    charts: str


class NotThereError(MlopsError):
    """Neither the built file is there nor the packages that make it."""


@cache
def load() -> Assets:
    """The built file's, or made now and kept for the next time, where the package's folder may be written to.

    Raises:
        NotThereError: neither can be.
    """
    if BUILT.exists():
        found = Assets(**json.loads(BUILT.read_text(encoding="utf-8")))
        if found.charts == _charts():
            return found
    made = make()
    with suppress(OSError):
        _write(made, BUILT)
    return made


def make() -> Assets:
    """Made from the installed packages.

    Raises:
        NotThereError: they aren't installed.
    """
    try:
        import altair
        import vl_convert
    except ImportError as error:
        raise NotThereError(
            f"the dashboard's charts need the extra `dashboard` of this package, which isn't installed ({error})"
        ) from error
    from matchmaking.reporting.dashboard.charts import specifications

    # Altair's own version of Vega-Lite
    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return Assets(
        # its type says that a snippet must be given, and without one it gives all of it
        vl_convert.javascript_bundle(vl_version=version),  # type: ignore[call-arg]
        {name: vl_convert.vegalite_to_vega(one, vl_version=version) for name, one in specifications().items()},
        {"altair": altair.__version__, "vl_convert": metadata.version("vl-convert-python"), "vega_lite": version},
        _charts(),
    )


def _charts() -> str:
    return hashlib.sha256(CHARTS.read_bytes()).hexdigest()


def main() -> None:
    """Writes the built file: where it is looked for, or where the command line says."""
    _write(make(), Path(sys.argv[1]) if len(sys.argv) > 1 else BUILT)


def _write(made: Assets, out: Path) -> None:
    with written_whole(out) as temporary:
        temporary.write_text(json.dumps(asdict(made)), encoding="utf-8")


if __name__ == "__main__":
    main()
