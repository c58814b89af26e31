"""The race over addresses, on fake attempts; the probe itself is tested in test_channels."""

import asyncio

import pytest

from identity.address import Address
from rpc.errors import ForeignNetwork, RpcError, Unreachable, WrongPeer
from rpc.probe import race
from tests.rpc.echo import until

A, B, C = (Address("192.0.2.1", port) for port in (1, 2, 3))
LONG_S = 30.0


class Attempts:
    """Each address answers with its outcome: an error, or itself; None never answers."""

    def __init__(self, outcomes: dict[Address, RpcError | Address | None]) -> None:
        self.outcomes = outcomes
        self.started: list[Address] = []
        self.cancelled: list[Address] = []

    async def __call__(self, address: Address) -> Address:
        self.started.append(address)
        match self.outcomes[address]:
            case None:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled.append(address)
                    raise
            case RpcError() as error:
                raise error
        return address


async def test_the_first_address_keeps_its_head_start() -> None:
    attempts = Attempts({A: A, B: B})
    assert await race([A, B], attempts, stagger_s=LONG_S) == A
    assert attempts.started == [A]


async def test_a_failure_starts_the_next_address_at_once() -> None:
    attempts = Attempts({A: Unreachable(), B: WrongPeer(), C: C})
    async with asyncio.timeout(LONG_S / 2):
        assert await race([A, B, C], attempts, stagger_s=LONG_S) == C


async def test_a_silent_address_is_overtaken_and_then_cancelled() -> None:
    attempts = Attempts({A: None, B: None, C: C})
    async with asyncio.timeout(LONG_S / 2):
        assert await race([A, B, C], attempts, stagger_s=0.01) == C
    assert attempts.started == [A, B, C]
    assert set(attempts.cancelled) == {A, B}


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([Unreachable("1"), ForeignNetwork("2"), WrongPeer("3")], WrongPeer),
        ([Unreachable("1"), ForeignNetwork("2"), Unreachable("3")], ForeignNetwork),
        ([Unreachable("1"), Unreachable("2"), Unreachable("3")], Unreachable),
    ],
)
async def test_the_most_telling_failure_is_raised(
    errors: list[RpcError], told: type[RpcError]
) -> None:
    attempts = Attempts(dict(zip([A, B, C], errors, strict=True)))
    with pytest.raises(told):
        await race([A, B, C], attempts, stagger_s=LONG_S)


async def test_no_address_at_all_is_unreachable() -> None:
    with pytest.raises(Unreachable):
        await race([], Attempts({}), stagger_s=LONG_S)


async def test_a_cancelled_race_leaves_no_attempt_behind() -> None:
    attempts = Attempts({A: None, B: None})
    task = asyncio.create_task(race([A, B], attempts, stagger_s=0.01))
    await until(lambda: attempts.started == [A, B])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(attempts.cancelled) == {A, B}
