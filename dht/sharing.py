"""Equal work done once: whoever wants what is under way already waits for that.

Owns the flights under way and their waiters. Must not know what the work is. A flight is a task
of the node, so that a waiter that is cancelled takes nothing from the others; the flight itself
ends when nobody waits any more.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from typing import Generic, Protocol, TypeVar

from dht.errors import NotListening

Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]

FLIGHTS_MAX = 1_024


class Work(Protocol):
    """Something to be done once for all who want it; it keeps its own results."""

    async def run(self) -> None: ...


AnyWork = TypeVar("AnyWork", bound=Work)


class Flight(Generic[AnyWork]):
    """Work under way. `end` is done when the work is, with the error that ended it."""

    def __init__(self, work: AnyWork) -> None:
        self.work = work
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.waiters = 0

    async def wait(self) -> None:
        """Return when the work is done; raises what ended it, NotListening if the node closed."""
        await asyncio.shield(self.end)

    async def fly(self) -> None:
        """Do the work; whoever waits is told how it ended."""
        try:
            await self.work.run()
        except Exception as error:  # noqa: BLE001  (each waiter raises it)
            self.finish(error)
        else:
            self.finish(None)

    def finish(self, error: Exception | None) -> None:
        if self.end.done():
            return
        if error is None:
            self.end.set_result(None)
        elif self.waiters:
            self.end.set_exception(error)
        else:
            self.end.cancel()


class Flights(Generic[AnyWork]):
    """Share work by key.

    Inputs: `join`, `retire`. Invariants: at most flights_max keys; beyond, each works alone. All
    waiters of a flight see the same work and the same end.
    """

    def __init__(self, spawn: Spawn, *, flights_max: int = FLIGHTS_MAX) -> None:
        self._spawn = spawn
        self._flights_max = flights_max
        self._flights: dict[Hashable, Flight[AnyWork]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    @contextlib.asynccontextmanager
    async def join(
        self, key: Hashable, make: Callable[[], AnyWork]
    ) -> AsyncIterator[Flight[AnyWork]]:
        """Take part in the work under this key; it is made and begun when it is not under way."""
        flight = self._flights.get(key) or self._begin(key, make())
        flight.waiters += 1
        try:
            yield flight
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.end.done() and flight.task is not None:
                self._forget(key, flight)
                flight.task.cancel()

    def retire(self, is_outdated: Callable[[AnyWork], bool]) -> None:
        """Let nobody else join such work: what it finds may be out of date."""
        for key, flight in list(self._flights.items()):
            if is_outdated(flight.work):
                del self._flights[key]

    def _begin(self, key: Hashable, work: AnyWork) -> Flight[AnyWork]:
        flight = Flight(work)
        flight.task = self._spawn(flight.fly())
        if len(self._flights) < self._flights_max:
            self._flights[key] = flight

        def end(_: asyncio.Task[None]) -> None:
            self._forget(key, flight)
            if not flight.end.done():
                flight.finish(NotListening())

        flight.task.add_done_callback(end)
        flight.end.add_done_callback(lambda _: self._forget(key, flight))
        return flight

    def _forget(self, key: Hashable, flight: Flight[AnyWork]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
