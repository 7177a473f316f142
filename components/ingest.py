"""Brings the dataset and the production model here."""

# mypy: disable-error-code="valid-type"
from typing import NamedTuple

from kfp import dsl
from kfp.dsl import Dataset, Model, Output

from matchmaking.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def ingest(
    run_id: str,
    data: str,
    production: str,
    raw: Output[Dataset],
    production_model: Output[Model],
    instead: str = "",
) -> NamedTuple("Outputs", [("dataset_version", str), ("production_sha256", dict)]):
    """Brings the dataset and the production model here.

    Args:
        run_id: the MLflow run.
        data: URI of a CSV file.
        production: URI of the production folder; empty for none.
        raw: the file as it is.
        production_model: a copy of the three production files; empty for none.
        instead: URI to read where `data` is empty.

    Returns:
        dataset_version: md5 of the file.
        production_sha256: by file name.
    """
    from pathlib import Path

    from matchmaking.steps import step

    with step("ingest" if not instead else "ingest current", run_id, [raw, production_model]):
        from matchmaking.ingest import fetch_data, fetch_production

        version = fetch_data(data or instead, Path(raw.path))
        return (version, fetch_production(production, Path(production_model.path)))
