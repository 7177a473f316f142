"""Which model a client gets: a salted hash of its id, which a gateway or a backend in any language makes alike.

1. The text `<salt>:<client id>` as UTF-8 is hashed with MurmurHash2 (32 bits, seed 0), as nginx's `split_clients` does.
2. Of the 2**32 - 1 steps of the hash, the lowest `share` are the challenger's, and the highest `share` the champion's
   arm. Clients between the two get the champion and aren't in the experiment.

The arms are of equal size at every share, and grow from the two ends: who is in an arm stays there as the share rises,
and never comes into the other. docs/experiments.md has the whole function on half a page, with test vectors.
"""

from __future__ import annotations

import re
from typing import Literal

from matchmaking.base.errors import InputError

Variant = Literal["champion", "challenger"]
# an id that is a key of a database; whatever else is sent (a name, an address, a text) is no id, and is logged nowhere
UNIT = re.compile(r"[A-Za-z0-9._:-]{1,64}")
SALT = re.compile(r"[A-Za-z0-9._-]{1,100}")
# each arm's; beyond it the arms would overlap
MOST_SHARE = 50.0
STEPS = 0xFFFFFFFF


def assign(salt: str, client: str, share: float) -> Variant | None:
    """The arm of a client, or None where it isn't in the experiment and gets the champion.

    Args:
        salt: the experiment's own.
        client: the id; one that isn't as `UNIT` has it is none.
        share: each arm's, in percent of the clients: 0 to 50, in steps of 0.01.

    Raises:
        InputError: there is no such share.
    """
    hundredths = hundredths_of(share)
    if not hundredths or not UNIT.fullmatch(client):
        return None
    value = murmur2(f"{salt}:{client}".encode())
    low, high = thresholds(hundredths)
    if value < low:
        return "challenger"
    return "champion" if value >= high else None


def joins_at(salt: str, client: str) -> float:
    """The share, in percent, above which a client is in an arm: how far its hash is from the nearer end."""
    value = murmur2(f"{salt}:{client}".encode())
    return 100 * min(value, STEPS - value) / STEPS


def thresholds(hundredths: int) -> tuple[int, int]:
    """Below which hash a client is the challenger's, and from which on it is of the champion's arm, as nginx counts."""
    low = hundredths * STEPS // 10_000
    return low, low + (10_000 - 2 * hundredths) * STEPS // 10_000


def hundredths_of(share: float) -> int:
    """A share as whole hundredths of a percent.

    Raises:
        InputError: it is below 0, above 50, or finer than that.
    """
    if not 0 <= share <= MOST_SHARE or abs(share * 100 - round(share * 100)) > 1e-6:
        raise InputError(f"a share of {share:g} % can't be had: it is from 0 to {MOST_SHARE:g}, in steps of 0.01")
    return round(share * 100)


def murmur2(data: bytes) -> int:
    """MurmurHash2 of 32 bits with seed 0 (Austin Appleby, public domain), reading little-endian."""
    factor, mask = 0x5BD1E995, 0xFFFFFFFF
    value = len(data)
    whole = len(data) & ~3
    for place in range(0, whole, 4):
        block = int.from_bytes(data[place : place + 4], "little") * factor & mask
        block = (block ^ block >> 24) * factor & mask
        value = value * factor & mask ^ block
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * factor & mask
    value = (value ^ value >> 13) * factor & mask
    return value ^ value >> 15
