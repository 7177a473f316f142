"""Splits the dataset into training and held-out pairs."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from matchmaking.settings import image


@dsl.component(base_image=image("base"), install_kfp_package=False)
def split(run_id: str, pairs: Input[Dataset], how: str, train: Output[Dataset], test: Output[Dataset]):
    """Splits the dataset into training and held-out pairs.

    Args:
        run_id: the MLflow run.
        pairs: parquet.
        how: "stratified" (the split production was trained under) or "hash" (stable when the dataset grows).
        train: parquet.
        test: parquet.
    """
    from pathlib import Path

    from matchmaking.steps import step

    with step("split", run_id, {"Held-out pairs": test, "Training pairs": train}, [pairs]):
        from matchmaking.split import split_file

        rows = split_file(Path(pairs.path), Path(train.path), Path(test.path), how)
        train.metadata["rows"], test.metadata["rows"] = rows["train"], rows["test"]
