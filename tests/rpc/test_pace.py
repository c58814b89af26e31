"""Waiting for one's turn, on a virtual clock: exact, shared, and given back when cancelled."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rpc.config import window_bytes
from rpc.pace import FRAME_MIN_BYTES, Pace
from simulation.loop import VirtualLoop

RATE = 1_000_000


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(main())
        assert not loop.failures
    finally:
        loop.close()


def now() -> float:
    return asyncio.get_running_loop().time()


async def send(pace: Pace, pieces: int, size: int = 64_000) -> None:
    for _ in range(pieces):
        await pace.take(size)


def test_without_a_limit_nobody_waits_and_all_is_counted() -> None:
    async def main() -> None:
        pace, begun = Pace(), now()
        await send(pace, 100)
        await pace.received(5)
        pace.note(6)
        assert now() == begun
        assert pace.moved_bytes == 6_400_011

    in_virtual_time(main)


def test_gets_and_mail_never_move_more_than_the_limit_together() -> None:
    async def main() -> None:
        gets = Pace(RATE)
        mail, begun = Pace(beside=gets), now()
        await asyncio.gather(send(gets, 20), send(mail, 20), send(mail, 20))
        assert 3_840_000 / (now() - begun) == pytest.approx(RATE, rel=0.05)
        assert (gets.moved_bytes, mail.moved_bytes) == (1_280_000, 2_560_000)

    in_virtual_time(main)


def test_get_beside_a_hundred_streams_of_mail_has_half_of_the_rate() -> None:
    async def main() -> None:
        gets = Pace(RATE)
        mail, begun = Pace(beside=gets), now()
        streams = [asyncio.ensure_future(send(mail, 1_000, 512_000)) for _ in range(100)]
        await send(gets, 10, 100_000)
        assert 1_000_000 / (now() - begun) == pytest.approx(RATE / 2, rel=0.1)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    in_virtual_time(main)


def test_large_message_lets_others_in_between_its_pieces() -> None:
    async def main() -> None:
        gets = Pace(RATE)
        mail = Pace(beside=gets)
        sending = asyncio.ensure_future(mail.take(10 * RATE))
        await asyncio.sleep(1.0)
        begun = now()
        await gets.take(1_000)
        assert now() - begun < 0.05
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)

    in_virtual_time(main)


def test_cancelled_sending_gives_back_what_it_had_booked() -> None:
    async def main() -> None:
        pace = Pace(RATE)
        sending = [asyncio.ensure_future(pace.take(RATE)) for _ in range(3)]
        await asyncio.sleep(1.5)
        for each in sending:
            each.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        assert pace.moved_bytes == 0
        begun = now()
        await send(pace, 10, 100_000)
        assert now() - begun <= 1.0

    in_virtual_time(main)


def test_cancelled_receiving_has_moved_all_the_same() -> None:
    async def main() -> None:
        pace, begun = Pace(RATE), now()
        receiving = asyncio.ensure_future(pace.received(RATE))
        await asyncio.sleep(0.1)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        assert pace.moved_bytes == RATE
        await pace.take(1)
        assert now() - begun == pytest.approx(1.0, rel=0.05)

    in_virtual_time(main)


def test_piece_granted_in_the_moment_of_its_cancellation_is_given_back() -> None:
    async def main() -> None:
        pace, begun = Pace(RATE), now()
        pace.note(50_000)
        first, second = (asyncio.ensure_future(pace.take(10_000)) for _ in range(2))
        await asyncio.sleep(0.01)
        pace.note(-45_000)  # the first one's turn has come, though nobody has looked yet
        looking = pace.take(1)
        looking.send(None)
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        looking.close()
        assert first.cancelled()
        assert now() - begun == pytest.approx(0.01, abs=0.001), "the second had the first's turn"

    in_virtual_time(main)


def test_note_holds_up_whoever_comes_after() -> None:
    async def main() -> None:
        pace, begun = Pace(RATE), now()
        pace.note(RATE // 2)
        await pace.caught_up()
        assert now() - begun == pytest.approx(0.5, rel=0.05)
        await pace.take(1)
        assert now() - begun == pytest.approx(0.5, rel=0.05)
        assert pace.moved_bytes == RATE // 2 + 1

    in_virtual_time(main)


def test_window_of_a_stream_is_booked_while_more_is_to_come() -> None:
    async def main() -> None:
        pace, begun = Pace(RATE), now()
        with pace.reading(RATE) as stream:
            await stream.received(1)
            assert now() - begun == pytest.approx(window_bytes(RATE) / RATE, rel=0.05)
            for _ in range(10):
                await stream.received(RATE // 10)
        assert now() - begun == pytest.approx(1.0, rel=0.05), "the last of it was booked first"
        assert pace.moved_bytes == RATE + 1

    in_virtual_time(main)


def test_stream_that_ends_early_gives_back_what_did_not_come() -> None:
    async def main() -> None:
        pace, begun = Pace(RATE), now()
        pace.note(RATE // 2)
        with pace.reading(RATE) as stream:
            stream.expect(RATE)
        await pace.caught_up()
        assert now() - begun == pytest.approx(0.5, rel=0.05)

    in_virtual_time(main)


def test_many_small_reads_take_as_long_as_their_bytes() -> None:
    async def main() -> None:
        pace, begun = Pace(RATE), now()
        for _ in range(100):
            with pace.reading(10_000) as stream:
                await stream.received(10_000)
        assert now() - begun == pytest.approx(1.0, rel=0.05)

    in_virtual_time(main)


def test_frames_are_short_under_a_limit_here_or_there() -> None:
    free, slow, most = Pace(), Pace(RATE), 512 * 1024
    assert free.frame_bytes(most) == most
    assert slow.frame_bytes(most) == slow.frame_bytes(most, 1 << 30) == 20_000
    assert free.frame_bytes(most, 10_000) == slow.frame_bytes(most, 10_000) == 10_000
    assert free.wanted_frame_bytes(most) == 0
    assert slow.wanted_frame_bytes(most) == 20_000


def test_nobody_is_sent_frames_of_a_byte() -> None:
    assert Pace().frame_bytes(512 * 1024, 1) == FRAME_MIN_BYTES
