"""Checks the dataset against the schema."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from matchmaking.base.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def validate(
    run_id: str,
    raw: Input[Dataset],
    production_model: Input[Model],
    source: str,
    pairs: Output[Dataset],
    data_report: Output[Artifact],
    instead: str = "",
    labelled: bool = True,
):
    """Checks the dataset against the schema, before anything is trained on it.

    Args:
        run_id: the MLflow run.
        raw: a CSV or Parquet file, or a folder of parts.
        production_model: the production bundle, which knows its categories.
        source: what to call the dataset in messages.
        pairs: the dataset as parquet.
        data_report: JSON: rows, extra columns, categories never seen before.
        instead: what to call it where `source` is empty.
        labelled: whether the `match` column must be there.
    """
    import json
    from pathlib import Path

    from matchmaking.tracking.step import step

    name = "validate" if not instead else "validate current"
    with step(name, run_id, {"Pairs": pairs, "Data report": data_report}, [raw, production_model]):
        from matchmaking.inputs.validate import validate_file

        report = validate_file(
            Path(raw.path),
            Path(production_model.path),
            Path(pairs.path),
            source=source or instead,
            labelled=labelled,
        )
        Path(data_report.path).write_text(json.dumps(report, indent=1))
