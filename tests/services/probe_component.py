"""A step that tells what it sees. KFP reads its annotations, which are therefore not strings here."""

from kfp import dsl

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def look(data: str, production: str, candidates: str) -> dict:
    """Tells where it can write, what it may do, and what it was told.

    Args:
        data: a file.
        production: a folder.
        candidates: a folder inside the work folder.
    """
    import os
    from pathlib import Path

    def writable(folder):
        try:
            (folder / "new").write_text("1")
        except OSError:
            return False
        return True

    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    places = {
        "production": Path(production),
        "candidates": Path(candidates),
        "work folder": Path(candidates).parent,
        "code": Path("/opt/mlops"),
        "tmp": Path("/tmp"),
    }
    return {
        "readable": os.access(data, os.R_OK) and (Path(production) / "scaler.pkl").is_file(),
        "writable": sorted(
            [name for name, place in places.items() if writable(place)] + [data] * os.access(data, os.W_OK)
        ),
        "capabilities": (status["CapEff"] + status["CapBnd"]).strip("0"),
        "no_new_privileges": status["NoNewPrivs"],
        "networks": [path.name for path in Path("/sys/class/net").iterdir()],
        "tracking": os.environ["MLFLOW_TRACKING_URI"],
        "secret": os.environ.get("SECRET_OF_OURS"),
        "user": [os.getuid(), os.getgid()],
    }
