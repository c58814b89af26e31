"""Requests under way: one repeat, one outcome, and one timer for all of them."""

import asyncio
from typing import Any

import pytest

from dht import wire
from dht.errors import DhtError, NoAnswer
from dht.protocol import OUTSTANDING_MAX, ShoalProtocol
from dht.requests import Answer, Requests
from identity.address import Address
from simulation.loop import run
from tests.dht.endpoints import OWN_ID, our_protocol

PEER = ("127.0.0.1", 4100)
PATIENCE_S, REPEAT_S, DEADLINE_S = 0.2, 0.5, 2.0


class Desk:
    """Requests over a protocol without a socket, on a virtual clock, and what became of them."""

    def __init__(self) -> None:
        self.protocol: ShoalProtocol = our_protocol()
        self.sent: list[bytes] = self.protocol.transport.datagrams  # type: ignore[attr-defined]
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.silences: list[float] = []
        self.ends: list[tuple[Answer | DhtError, float]] = []
        self.requests = Requests(
            self.protocol,
            clock=self.loop.time,
            on_silence=lambda _: self.silences.append(self.now()),
        )

    def now(self) -> float:
        """Seconds since the scene began."""
        return round(self.loop.time() - self.began, 3)

    def begin(self, deadline_s: float = DEADLINE_S) -> Any:
        return self.requests.begin(
            Address(*PEER),
            lambda message_id: wire.pack_stock_call(message_id, wire.Call.PING, OWN_ID),
            patience_s=PATIENCE_S,
            repeat_s=REPEAT_S,
            deadline=self.loop.time() + deadline_s,
            on_end=lambda outcome: self.ends.append((outcome, self.now())),
        )

    def answer(self, place: int) -> None:
        """Answer what was sent at this place."""
        reply = wire.pack_stock_reply(self.sent[place][1:21], b"p" * 20)
        self.protocol.datagram_received(reply, PEER)


def test_an_unanswered_request_is_sent_once_more_and_then_fails() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.begin()
        await asyncio.sleep(3.0)
        assert len(desk.sent) == 2
        assert desk.sent[0][1:21] != desk.sent[1][1:21], "under an id of its own"
        assert desk.silences == [PATIENCE_S, PATIENCE_S + REPEAT_S]
        [(outcome, at_s)] = desk.ends
        assert isinstance(outcome, NoAnswer)
        assert at_s == PATIENCE_S + REPEAT_S

    run(scene())


@pytest.mark.parametrize("place", [0, 1])
def test_an_answer_to_either_sending_settles_the_request_for_good(place: int) -> None:
    async def scene() -> None:
        desk = Desk()
        desk.begin()
        await asyncio.sleep(PATIENCE_S + 0.1)
        desk.answer(place)
        desk.answer(1 - place)
        await asyncio.sleep(3.0)
        [(outcome, _)] = desk.ends
        assert isinstance(outcome, Answer)
        assert outcome.message_id == desk.sent[place][1:21]
        assert outcome.rtt_s == pytest.approx(0.1 if place else PATIENCE_S + 0.1)
        assert desk.protocol.drops == {"unasked": 1}
        assert len(desk.sent) == 2

    run(scene())


def test_a_request_ends_at_its_deadline_however_patient_it_is() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.begin(deadline_s=0.05)
        await asyncio.sleep(1.0)
        [(outcome, at_s)] = desk.ends
        assert isinstance(outcome, NoAnswer)
        assert at_s == 0.05
        assert len(desk.sent) == 1

    run(scene())


def test_one_timer_serves_a_thousand_requests_that_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        desk = Desk()
        real = desk.loop.call_later
        made: list[float] = []

        def counted(delay_s: float, *rest: Any) -> asyncio.TimerHandle:
            made.append(delay_s)
            return real(delay_s, *rest)

        monkeypatch.setattr(desk.loop, "call_later", counted)
        for number in range(1_000):
            desk.begin()
            desk.answer(number)
        assert len(desk.ends) == 1_000
        assert len(made) == 1
        await asyncio.sleep(1.0)
        assert len(made) == 2, "that of this sleep; the first one is not set again"
        assert desk.requests._due == []

    run(scene())


def test_what_is_over_does_not_pile_up_before_it_would_have_been_due() -> None:
    async def scene() -> None:
        desk = Desk()
        for number in range(2 * OUTSTANDING_MAX + 10):
            desk.begin()
            desk.answer(number)
        assert len(desk.requests._due) <= 2 * OUTSTANDING_MAX

    run(scene())


def test_more_requests_than_may_wait_are_refused_and_none_is_lost() -> None:
    async def scene() -> None:
        desk = Desk()
        for _ in range(OUTSTANDING_MAX):
            desk.begin()
        with pytest.raises(NoAnswer):
            desk.begin()
        desk.answer(0)
        desk.begin()
        await asyncio.sleep(3.0)
        assert len(desk.ends) == OUTSTANDING_MAX + 1

    run(scene())


def test_closing_the_endpoint_ends_all_requests_at_once() -> None:
    async def scene() -> None:
        desk = Desk()
        for _ in range(5):
            desk.begin()
        desk.protocol.connection_lost(None)
        assert [type(outcome) for outcome, _ in desk.ends] == [NoAnswer] * 5
        await asyncio.sleep(3.0)
        assert len(desk.sent) == 5, "nothing is repeated"
        assert desk.silences == []

    run(scene())
