"""Who hands which records to whom when the neighbourhood of a key changes.

Owns the two rules: a newcomer among the k closest gets what is stored there, and when one of the
k closest has gone, whoever moves up into its place. Only the closest few holders hand a key over,
so that nobody is flooded; nothing here touches a record or its expiry. Pure: ids and distances
alone; must not know tables, stores or calls.
"""

import bisect
from collections.abc import Collection, Sequence


def hands_over(
    key: int, own_id: int, closest: Sequence[int], receivers: Collection[int], *, holders: int
) -> bool:
    """Say whether we are among the `holders` closest to a key who have its records.

    `closest` are the ids of the contacts closest to the key; the receivers among them have none
    of its records yet.
    """
    own_distance = own_id ^ key
    nearer = sum(each ^ key < own_distance for each in closest if each not in receivers)
    return nearer < holders


def heirs(key: int, closest: Sequence[int], departed: Collection[int], *, k: int) -> list[int]:
    """Return who moved up among the k closest to a key when these have gone, closest first.

    `closest` are the k closest contacts that are left, or all of them.
    """
    before = sorted((*closest, *departed), key=lambda each: each ^ key)[:k]
    return [each for each in closest if each not in before]


def may_be_close(key: int, peer: int, ids: Sequence[int], *, closer_max: int) -> bool:
    """Say False where surely more than `closer_max` of the sorted ids are closer to the key.

    Of XOR distances: whoever shares a longer prefix with the key than the peer does is closer. It
    takes two bisections, and spares nearly all keys of a large store a look at the whole table.
    """
    width = (key ^ peer).bit_length() - 1
    if width < 0:
        return True
    lowest = key >> width << width
    closer = bisect.bisect_left(ids, lowest + (1 << width)) - bisect.bisect_left(ids, lowest)
    return closer <= closer_max
