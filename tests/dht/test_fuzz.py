"""A short run of what `make fuzz` does for long: mutated datagrams break, and grow, nothing."""

from __future__ import annotations

import random

import pytest

from identity.network import Network
from tests.dht.nodes import OPEN, PRIVATE
from tests.fuzz.datagrams import GROWTH_BYTES_MAX, fuzz, mutated

COUNT = 8_000
WARM_UP = 2_000


@pytest.mark.parametrize("network", [OPEN, PRIVATE], ids=["open", "private"])
async def test_mutated_datagrams_escape_nowhere_and_the_node_still_answers(
    network: Network,
) -> None:
    outcome = await fuzz(network, COUNT, seed=7, warm_up=WARM_UP)
    counters = outcome.counters
    assert outcome.growth_bytes < 2 * GROWTH_BYTES_MAX, "the tables fill up in so short a run"
    reached = ("malformed", "store-ok", "hello-signature", "unasked", "reply-malformed")
    assert all(counters.get(name, 0) > 0 for name in reached), counters


def test_mutations_change_most_datagrams_and_never_make_one_much_larger() -> None:
    rng = random.Random(1)
    data = rng.randbytes(500)
    changed = [mutated(data, rng, [rng.randbytes(300)]) for _ in range(500)]
    assert sum(each != data for each in changed) > 300
    assert max(map(len, changed)) <= 1_300
