"""Dialling back: proving to others that they can be reached, and being proved so ourselves.

Owns both sides of `dial_back`: as a witness the limits, the probes from a fresh port and the memory
of what came of them; as the asker the nonces that wait for a probe, and the loop that asks. Must
not know the verdict's rule (`reachability`) nor what a verdict changes.

A witness dials only the host that a request came from, which has shown an address token, and only
the port that it names: nobody can have a third host dialled. The probe leaves from a fresh port,
since what came to us from there before would have opened a firewall or an address translator.
"""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import assert_never

from dht import wire
from dht.calling import Caller
from dht.errors import DhtError
from dht.limits import RateLimit
from dht.lookup import Candidate
from dht.reachability import AskWitness, Reach, Reachability, Rest, Witness
from dht.self_view import SelfView
from identity.address import Address

DIALS_MAX = 8
"""Askers dialled at once."""
OUTCOMES_MAX = 64
"""Dials whose outcome is remembered for whoever asks again."""
PROBES = 2
"""Datagrams to one asker: one may be lost."""
PROBE_GAP_S = 0.2
TCP_TIMEOUT_S = 2.0
POLLS_S = (0.3, 0.6, 1.2, 1.2)
"""Pauses before the asker asks again; together longer than a witness takes."""

Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]
TcpProbe = Callable[[bytes, Address], Awaitable[bool]]
"""Tells whether this very peer listens on TCP at an address; never raises for a remote reason."""
SendFresh = Callable[[Sequence[bytes], Address], Awaitable[None]]
"""Sends datagrams from a port that was never used before; PortInUse when it cannot."""
OpenEndpoint = Callable[[asyncio.DatagramProtocol, str, int], Awaitable[None]]
"""Binds a protocol to a host and port; PortInUse."""


class DialBackDesk:
    """Dial askers back.

    Inputs: `answer`. Outputs: states for the asker, probes, TCP probes. Invariants: at most
    DIALS_MAX dials at once, OUTCOMES_MAX remembered; over the rates BUSY is all that happens.
    """

    def __init__(
        self,
        own_id: bytes,
        seal: Callable[[bytes], bytes],
        *,
        per_peer: RateLimit,
        in_all: RateLimit,
        entropy: Callable[[int], bytes],
        clock: Callable[[], float],
        spawn: Spawn,
        send_fresh: SendFresh,
        drops: Counter[str],
    ) -> None:
        self._own_id = own_id
        self._seal = seal
        self._per_peer = per_peer
        self._in_all = in_all
        self._entropy = entropy
        self._clock = clock
        self._spawn = spawn
        self._send_fresh = send_fresh
        self._drops = drops
        self._running = 0
        self._outcomes: OrderedDict[tuple[bytes, bytes], wire.DialBackState] = OrderedDict()
        self.tcp_probe: TcpProbe | None = None

    def __len__(self) -> int:
        return len(self._outcomes)

    def answer(self, body: wire.DialBack, asker_id: bytes, host: str) -> wire.DialledBack:
        """Start to dial an asker with a valid token, or tell how far that has come."""
        dial = (asker_id, body.nonce)
        known = self._outcomes.get(dial)
        if known is not None:
            return wire.DialledBack(known)
        now = self._clock()
        if (
            self._running >= DIALS_MAX
            or (body.tcp and self.tcp_probe is None)
            or not self._per_peer.allows(asker_id.hex(), now=now)
            or not self._in_all.allows("", now=now)
        ):
            self._drops["dial-back-busy"] += 1
            return wire.DialledBack(wire.DialBackState.BUSY)
        self._running += 1
        self._note(dial, wire.DialBackState.TRYING)
        self._spawn(self._dial(dial, Address(host, body.port), tcp=body.tcp))
        return wire.DialledBack(wire.DialBackState.TRYING)

    async def _dial(self, dial: tuple[bytes, bytes], target: Address, *, tcp: bool) -> None:
        try:
            await self._send_fresh([self._probe(dial[1]) for _ in range(PROBES)], target)
            is_open = not tcp or await self._meets(dial[0], target)
            state = wire.DialBackState.OPEN if is_open else wire.DialBackState.CLOSED
        except DhtError:
            self._drops["dial-back-failed"] += 1
            state = wire.DialBackState.BUSY
        finally:
            self._running -= 1
        self._note(dial, state)

    async def _meets(self, peer_id: bytes, target: Address) -> bool:
        assert self.tcp_probe is not None, "else the asker heard that we are busy"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TCP_TIMEOUT_S):
                return await self.tcp_probe(peer_id, target)
        return False

    def _probe(self, nonce: bytes) -> bytes:
        sender = wire.Sender(self._own_id)
        message_id = self._entropy(wire.MESSAGE_ID_BYTES)
        body = wire.pack_body(wire.Probe(nonce))
        return self._seal(wire.pack_call(message_id, wire.Call.PROBE, sender, body, 0))

    def _note(self, dial: tuple[bytes, bytes], state: wire.DialBackState) -> None:
        self._outcomes[dial] = state
        self._outcomes.move_to_end(dial)
        while len(self._outcomes) > OUTCOMES_MAX:
            self._outcomes.popitem(last=False)


class ReachWatch:
    """Find out whether we can be reached, and keep finding out; `on_change` hears of a verdict."""

    def __init__(
        self,
        machine: Reachability,
        own: SelfView,
        caller: Caller,
        *,
        witnesses: Callable[[], Sequence[Witness]],
        own_hosts: Callable[[], Collection[str]],
        port: Callable[[], int],
        clock: Callable[[], float],
        spawn: Spawn,
        on_change: Callable[[Reach], None],
        drops: Counter[str],
    ) -> None:
        self._machine = machine
        self._own = own
        self._caller = caller
        self._witnesses = witnesses
        self._own_hosts = own_hosts
        self._port = port
        self._clock = clock
        self._spawn = spawn
        self._on_change = on_change
        self._drops = drops
        self._awaited: dict[bytes, asyncio.Event] = {}
        self._wake = asyncio.Event()
        self.has_tcp = False
        """Whether we listen on TCP, too."""

    @property
    def state(self) -> Reach:
        return self._machine.state

    def on_probe(self, probe: wire.Probe) -> None:
        """Take a probe from wherever it came: it carries a nonce that only a witness knows."""
        awaited = self._awaited.get(probe.nonce)
        if awaited is None:
            self._drops["probe-unasked"] += 1
        else:
            awaited.set()

    def look_again(self) -> None:
        """Look whether there is somebody to ask now: a contact has come."""
        if self._machine.is_due(self._clock()):  # with many newcomers this is asked all the time
            self._wake.set()

    def moved(self) -> None:
        """Ask anew: our address is another one."""
        self._machine.moved()
        self._wake.set()

    async def run(self) -> None:
        """Ask whenever there is something to ask; without end."""
        while True:
            self._wake.clear()
            before = self._machine.state
            now = self._clock()
            # We may be woken early: do not go through all contacts for nothing.
            is_due = self._machine.is_due(now)
            witnesses = self._witnesses() if is_due else ()
            step = self._machine.next(witnesses, self._own_hosts() if is_due else (), now=now)
            self._tell(before)
            match step:
                case AskWitness(witness):
                    self._spawn(self._ask(witness))
                case Rest(until_s):
                    await _wait(self._wake, until_s - self._clock())
                case _:
                    assert_never(step)

    async def _ask(self, witness: Witness) -> None:
        nonce = self._own.entropy(16)
        arrived = self._awaited[nonce] = asyncio.Event()
        before = self._machine.state
        try:
            state = await self._poll(witness, wire.DialBack(self._port(), nonce, self.has_tcp))
            if state is wire.DialBackState.OPEN and not arrived.is_set():
                await _wait(arrived, POLLS_S[0])  # it may have been overtaken by the answer
        except DhtError:
            self._drops["dial-back-lost"] += 1
            state = wire.DialBackState.BUSY
        finally:
            del self._awaited[nonce]
        match state:
            case wire.DialBackState.OPEN | wire.DialBackState.CLOSED:
                reached = state is wire.DialBackState.OPEN and arrived.is_set()
                self._machine.reported(witness, reached=reached, now=self._clock())
            case wire.DialBackState.BUSY | wire.DialBackState.TRYING:
                self._machine.unanswered(witness)
            case _:
                assert_never(state)
        self._tell(before)
        self._wake.set()

    async def _poll(self, witness: Witness, body: wire.DialBack) -> wire.DialBackState:
        candidate = Candidate(witness.peer_id, witness.address)
        state = await self._caller.dial_back(candidate, body)
        for pause_s in POLLS_S:
            if state is not wire.DialBackState.TRYING:
                break
            await asyncio.sleep(pause_s)
            state = await self._caller.dial_back(candidate, body)
        return state

    def _tell(self, before: Reach) -> None:
        if self._machine.state is not before:
            self._on_change(self._machine.state)


class _Sender(asyncio.DatagramProtocol):
    """A port that is sent from and never heard at."""

    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Keep the transport."""
        self.transport = transport


def fresh_sender(open_endpoint: OpenEndpoint, bound: Callable[[], Address]) -> SendFresh:
    """Return what sends datagrams from a port of our own host that the system chooses."""

    async def send(datagrams: Sequence[bytes], target: Address) -> None:
        sender, host = _Sender(), bound().host
        await open_endpoint(sender, host, 0)
        mapped = ":" in host and ":" not in target.host  # an IPv6 socket sends to IPv4, too
        try:
            for number, datagram in enumerate(datagrams):
                if number:
                    await asyncio.sleep(PROBE_GAP_S)
                to = f"::ffff:{target.host}" if mapped else target.host
                sender.transport.sendto(datagram, (to, target.port))
        finally:
            sender.transport.close()

    return send


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(None if timeout_s == float("inf") else max(0.0, timeout_s)):
            await event.wait()
