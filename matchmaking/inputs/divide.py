"""Which parts of two datasets that are compared are read by whom, where many read them side by side."""

from __future__ import annotations

from typing import Any

from matchmaking.base.errors import InputError
from matchmaking.data.parts import list_dataset
from matchmaking.inputs.plan import planned

# at most, of both together: fewer than `plan.SHARDS`, as the pipeline that compares them has more steps
SHARDS_OF_TWO = 12


def divide_sides(reference: str, current: str, most: int = SHARDS_OF_TWO) -> dict[str, dict[str, Any]]:
    """`plan.plan_shards` of two datasets that are compared: so many shards of both together, by their bytes.

    Raises:
        InputError: there is no such dataset, or no current one is given.
        StorageError: the store can't be reached, even after retries.
    """
    if not current:
        raise InputError("--current is missing: what is compared in parts are two datasets; monitor halves one")
    found = {"reference": list_dataset(reference), "current": list_dataset(current)}
    sizes = {side: sum(parts.values()) for side, (_, parts) in found.items()}
    first = round(most * sizes["reference"] / max(1, sum(sizes.values())))
    first = min(max(first, 1), most - 1)
    # what one side has no parts for, the other gets
    first = max(first, most - max(1, len(found["current"][1])))
    first = min(first, max(1, len(found["reference"][1])))
    return {"reference": planned(*found["reference"], first), "current": planned(*found["current"], most - first)}
