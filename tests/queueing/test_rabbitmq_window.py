"""Room for what is unconfirmed: bounded over all deposits, and given in turn."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queueing.rabbitmq_window import Window

MESSAGES, BYTES = 4, 100


class Inside:
    """What is in the window, and the most that ever was."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.order: list[int] = []

    async def pass_through(self, window: Window, number: int, size: int) -> None:
        await window.enter(size)
        self.order.append(number)
        self.sizes.append(size)
        assert len(self.sizes) <= MESSAGES
        assert sum(self.sizes) <= BYTES or len(self.sizes) == 1
        for _ in range(size % 5):
            await asyncio.sleep(0)
        self.sizes.remove(size)
        window.leave(size)


@given(sizes=st.lists(st.integers(0, 2 * BYTES), max_size=30))
def test_no_more_is_inside_than_there_is_room_for_and_all_pass_in_their_order(
    sizes: list[int],
) -> None:
    async def run() -> None:
        window, inside = Window(MESSAGES, BYTES, 5.0), Inside()
        async with asyncio.TaskGroup() as group:
            for number, size in enumerate(sizes):
                group.create_task(inside.pass_through(window, number, size))
        assert inside.order == list(range(len(sizes)))
        assert not inside.sizes

    asyncio.run(run())


async def test_a_wait_fails_when_nobody_leaves_for_too_long() -> None:
    window = Window(1, BYTES, 0.01)
    await window.enter(1)
    with pytest.raises(TimeoutError):
        await window.enter(1)
    window.leave(1)
    await window.enter(BYTES + 1)
