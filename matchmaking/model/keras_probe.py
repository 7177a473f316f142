"""What is inside an .h5, found without loading it: run as a program of its own, since a damaged file can stop h5py.

Prints one JSON object: `model_config`, `training_config` and `keras_version` (attributes), `weights` (the names below
`model_weights`), `outside` (what reaches beyond the file's own bytes, or claims more than they hold) and `not_finite`
(the weights with a NaN or an infinity in them).
"""

from __future__ import annotations

import json
import sys
from typing import Any

# a model of this service is a few MB; past this, what the file claims would fill a machine's memory
MOST_BYTES = 1 << 30
# deflate, shuffle, fletcher32, szip, nbit, scaleoffset, and h5py's own lzf: any other is a plugin loaded from a folder
FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})


def look(path: str) -> dict[str, Any]:
    """Everything of the module's description, of one file."""
    import h5py

    found: dict[str, Any] = {"weights": [], "outside": [], "not_finite": []}
    with h5py.File(path, "r") as file:
        for name in ("model_config", "training_config", "keras_version"):
            value = file.attrs.get(name)
            found[name] = value.decode() if isinstance(value, bytes) else None if value is None else str(value)
        claimed = _walk(file, "", {}, found)
        if claimed > MOST_BYTES:
            found["outside"].append(f"weights of {claimed / 1e9:,.0f} GB")
        if not found["outside"]:
            found["weights"] = list(file["model_weights"]) if "model_weights" in file else []
            for name in ("model_weights",) if found["weights"] else ():
                file[name].visititems(lambda name, item: _finite(name, item, found))
    return found


def _walk(group: Any, place: str, seen: dict[int, str], found: dict[str, Any]) -> int:
    """Looks at every link before it is followed; returns the bytes that the datasets claim."""
    import h5py

    claimed = 0
    for name in group.id:
        where = f"{place}/{name.decode(errors='replace')}"
        kind = group.id.links.get_info(name).type
        if kind != h5py.h5l.TYPE_HARD:
            kinds = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "a link to another file"}
            found["outside"].append(f"{kinds.get(kind, 'a link of an unknown kind')} at {where}")
            continue
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            # a second name of the same bytes, or a group that holds itself
            continue
        seen[address] = where
        if isinstance(item, h5py.Group):
            claimed += _walk(item, where, seen, found)
        elif isinstance(item, h5py.Dataset):
            claimed += (item.size or 0) * item.dtype.itemsize
            found["outside"] += [f"{what} at {where}" for what in _beyond(item)]
        else:
            found["outside"].append(f"what is no weight at {where}")
    return claimed


def _beyond(dataset: Any) -> list[str]:
    """How the values of a dataset come from elsewhere than its place in the file."""
    import h5py

    plan = dataset.id.get_create_plist()
    beyond = []
    if plan.get_external_count():
        beyond.append("values stored in another file")
    if plan.get_layout() == h5py.h5d.VIRTUAL:
        beyond.append("a virtual dataset")
    elif dataset.dtype.kind not in "fiub":
        beyond.append("values that are no numbers")
    filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
    if set(filters) - FILTERS:
        beyond.append("values packed by a plugin")
    if not beyond and not filters and dataset.id.get_storage_size() < (dataset.size or 0) * dataset.dtype.itemsize:
        beyond.append("values that are not there")
    return beyond


def _finite(name: str, item: Any, found: dict[str, Any]) -> None:
    import numpy as np

    if hasattr(item, "dtype") and item.dtype.kind == "f" and not np.isfinite(item[()]).all():
        found["not_finite"].append(name)


if __name__ == "__main__":
    json.dump(look(sys.argv[1]), sys.stdout)
