"""Requests under way: each goes out, once more when it stays unanswered, and ends in one outcome.

Owns repeats and timeouts, all of them on one timer, since nearly every request is answered long
before its own would go off. Must not know what is asked, who proved what, or what an answer means.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from dht.errors import DhtError, NoAnswer
from dht.protocol import OUTSTANDING_MAX, ShoalProtocol
from identity.address import Address

SENDS_MAX: Final = 2
"""A request and one repeat."""
TIMER_SLACK_S: Final = 0.001
"""An event loop's timers may go off as much early."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The value of a response frame, and the sent request that it answers."""

    message_id: bytes
    value: msgspec.Raw
    rtt_s: float


OnEnd = Callable[[Answer | DhtError], None]


class Request:
    """One request and its repeat: whichever is answered settles it."""

    __slots__ = ("address", "build", "deadline", "is_over", "on_end", "repeat_s", "sent")

    def __init__(
        self,
        address: Address,
        build: Callable[[bytes], bytes],
        deadline: float,
        repeat_s: float,
        on_end: OnEnd,
    ) -> None:
        self.address = address
        self.build = build
        self.deadline = deadline
        self.repeat_s = repeat_s
        self.on_end = on_end
        self.sent: dict[bytes, float] = {}
        self.is_over = False


class Requests:
    """Send requests for one node.

    Inputs: `begin`, `drop`, the protocol's answers, the timer. Outputs: `on_end` of each request
    that is not dropped, once, never from within `begin`; `on_silence` when one waits longer than
    its patience. Invariants: at most OUTSTANDING_MAX wait (the protocol's); the queue of the due
    holds at most as many again that are over.
    """

    def __init__(
        self,
        protocol: ShoalProtocol,
        *,
        clock: Callable[[], float],
        on_silence: Callable[[Address], None],
    ) -> None:
        self._protocol = protocol
        self._clock = clock
        self._on_silence = on_silence
        self._loop = asyncio.get_running_loop()
        self._due: list[tuple[float, int, Request]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    def begin(
        self,
        address: Address,
        build: Callable[[bytes], bytes],
        *,
        patience_s: float,
        repeat_s: float,
        deadline: float,
        on_end: OnEnd,
    ) -> Request:
        """Send a request, and a repeat after `patience_s` that has `repeat_s`; DhtError.

        `build` makes the frame for a fresh message id. Both end at the deadline.
        """
        request = Request(address, build, deadline, repeat_s, on_end)
        self._send(request, patience_s)
        return request

    def drop(self, request: Request) -> None:
        """Let a request go: nobody waits for its answer any more."""
        request.is_over = True
        for message_id in request.sent:
            self._protocol.forget(message_id)

    def _send(self, request: Request, patience_s: float) -> None:
        on_answer = partial(self._on_answer, request)
        message_id = self._protocol.ask(request.address, request.build, on_answer)
        request.sent[message_id] = now = self._clock()
        due = min(now + patience_s, request.deadline)
        heapq.heappush(self._due, (due, next(self._numbers), request))
        if len(self._due) > 2 * OUTSTANDING_MAX:
            self._due = [each for each in self._due if not each[2].is_over]
            heapq.heapify(self._due)
        self._wake_at(due)

    def _on_answer(self, request: Request, message_id: bytes, value: msgspec.Raw | None) -> None:
        if request.is_over:
            return
        rtt_s = self._clock() - request.sent[message_id]
        if len(request.sent) > 1:
            self.drop(request)
        else:  # whoever hands us the answer has forgotten it already
            request.is_over = True
        if value is not None:
            request.on_end(Answer(message_id, value, rtt_s))
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        request.on_end(NoAnswer("the node was closed"))

    def _wake_at(self, due: float) -> None:
        if self._timer is not None:
            if due >= self._timer_due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(max(0.0, due - self._clock()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._clock()
        while self._due and (self._due[0][2].is_over or self._due[0][0] <= now + TIMER_SLACK_S):
            _, _, request = heapq.heappop(self._due)
            if not request.is_over:
                self._be_impatient(request, now)
        if self._due:
            self._wake_at(self._due[0][0])

    def _be_impatient(self, request: Request, now: float) -> None:
        self._on_silence(request.address)
        error: DhtError
        try:
            if len(request.sent) >= SENDS_MAX or now >= request.deadline - TIMER_SLACK_S:
                raise NoAnswer(f"{request.address} does not answer")
            self._send(request, request.repeat_s)
        except DhtError as why:
            error = why
        else:
            return
        self.drop(request)
        request.on_end(error)
