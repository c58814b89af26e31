"""An asyncio event loop on a virtual clock: time jumps to the next event.

Owns the order in which things happen. Must not know peers, datagrams or the system's clock. What
is due at the same instant runs in the order in which it was asked for, so that a run repeats.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")
Event = tuple[float, int, asyncio.TimerHandle | None, Callable[..., object], tuple[Any, ...]]

BEGIN_S = 1_000.0
"""Where the clock starts: a monotonic clock promises no zero."""
CANCELLED_MIN = 1_024
"""The fewest cancelled timers that are worth a sweep."""


class Stuck(RuntimeError):  # noqa: N818 - named by what went wrong, as all our errors are
    """Nothing will ever happen any more, and somebody still waits."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Run callbacks, timers and deliveries in virtual time.

    Inputs: asyncio's calls, and `post_at` for what never needs to be cancelled. Invariants: time
    never goes back, and stands still while anything is ready; events run in the order of (time,
    number); the heap holds at most twice the live timers and CANCELLED_MIN.
    """

    _ready: deque[asyncio.Handle]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._now = BEGIN_S
        self._events: list[Event] = []
        self._number = 0
        self._cancelled = 0
        self.failures: list[dict[str, Any]] = []
        """What nobody caught: a simulation with any of it has failed."""
        self.set_exception_handler(_keep_failure)

    def time(self) -> float:
        """Return the virtual monotonic time in seconds."""
        return self._now

    def call_soon(
        self,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """Call back at this instant, after what is ready: asyncio's, without its debug checks."""
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back after a virtual time."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at a virtual time; now when that has passed."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined]  # noqa: SLF001 - as asyncio's loops do
        self._number += 1
        heapq.heappush(self._events, (when, self._number, timer, callback, ()))
        return timer

    def post_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
    ) -> None:
        """Call back at a virtual time, without a handle: cheaper than call_at.

        What the callback raises ends the run.
        """
        self._number += 1
        heapq.heappush(self._events, (when, self._number, None, callback, args))

    def _run_once(self) -> None:
        """Run what is ready, or else move on to the next event and run that."""
        ready = self._ready
        if ready:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()  # noqa: SLF001 - as asyncio's loops do
            return
        if self._stopping:
            return
        if self._cancelled > CANCELLED_MIN and 2 * self._cancelled > len(self._events):
            self._sweep()
        if not self._events:
            raise Stuck("no timer and no datagram is left to wait for")
        when, _, timer, callback, args = heapq.heappop(self._events)
        if timer is None:
            self._now = max(self._now, when)
            callback(*args)
        elif timer.cancelled():
            self._cancelled -= 1
        else:
            self._now = max(self._now, when)
            timer._scheduled = False  # type: ignore[attr-defined]  # noqa: SLF001
            timer._run()  # noqa: SLF001

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if handle._scheduled:  # type: ignore[attr-defined]  # noqa: SLF001
            self._cancelled += 1

    def _sweep(self) -> None:
        """Drop cancelled timers; the rest keeps its order, which is total."""
        self._events = [each for each in self._events if each[2] is None or not each[2].cancelled()]
        heapq.heapify(self._events)
        self._cancelled = 0

    def _process_events(self, event_list: object) -> None:
        """Do nothing: there is no input but what the network posts."""

    def _write_to_self(self) -> None:
        """Do nothing: the loop never sleeps, so that nobody must wake it."""


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on a fresh virtual loop.

    Raises what it raises, Stuck, or AssertionError for an exception that nobody caught.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        result = runner.run(work)
        assert isinstance(loop, VirtualLoop)
        for failure in loop.failures:
            error = failure.get("exception")
            raise AssertionError(f"uncaught in the simulation: {failure['message']}") from error
    return result


def running_loop() -> VirtualLoop:
    """Return the virtual loop that runs now."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "a simulation runs on a virtual loop"
    return loop


def _keep_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, VirtualLoop)
    loop.failures.append(context)
