"""Calls to other nodes: hello when needed, tokens, repeats, timeouts, proof of who answered.

Owns the sessions (who proved itself at which address, and the token we hold there) and the
signed acknowledgements' check. Must not know lookups, the record store or schedules; repeats and
timeouts are `dht.requests`'.

A call goes with our token where we have one, else with a hello, padded to a full datagram. Its
answer proves the peer, or says that the token is not good: then the call is repeated. Each send
that stays without an answer is repeated once within the same timeout. How long somebody waits for
a call is another matter (`wait_for`): the call goes on, and what it hears late counts.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from dht import acks, wire
from dht.config import DhtConfig
from dht.dialling import DialLimits
from dht.errors import BadAnswer, BadMessage, DhtError, NoAnswer
from dht.hello import UNKNOWN_ID, BadHello, Hello, HelloAnswer, check_answer
from dht.lookup import Candidate
from dht.patience import Patience
from dht.protocol import ShoalProtocol
from dht.records import Record, encode_record
from dht.requests import Answer, OnEnd, Request, Requests
from dht.self_view import SelfView
from dht.tokens import TOKEN_LIFE_S
from identity.address import Address

Body = TypeVar("Body")

NO_BODY = b"\x90"
_OK = wire.Status.OK
ATTEMPTS_MAX = 4
"""Token refused, then a hello, then the call itself; one more for a token that just ran out."""


class Session(msgspec.Struct, frozen=True, gc=False):
    """A peer that proved itself at an address, and our token there."""

    peer_id: bytes
    public_key: bytes
    token: bytes
    since: float
    """When we got the token: after its life a hello costs less than having it refused."""
    find_head: bytes
    """What each `find_records` to it begins with."""


class Proven(msgspec.Struct, frozen=True, gc=False):
    """What an answer to a hello of ours proved."""

    peer_id: bytes
    address: Address
    answer: HelloAnswer
    wall_ms: int
    rtt_s: float | None


class ContactSink(Protocol):
    """Who is told about proofs, answers and silences."""

    def on_proven(self, proven: Proven) -> None: ...
    def on_answered(self, peer_id: bytes, address: Address, rtt_s: float | None) -> None: ...
    def on_silent(self, peer_id: bytes, address: Address) -> None: ...


OnFound = Callable[[wire.FoundRecords | DhtError | None], None]
"""Hears what was found, or why nothing; None: our token was refused, so that a hello must go."""


class _Exchange(msgspec.Struct, frozen=True, gc=False):
    message_id: bytes
    hello: Hello | None
    reply: wire.Reply
    rtt_s: float


class Caller:
    """Send our own calls and return their checked answers."""

    def __init__(
        self,
        protocol: ShoalProtocol,
        own: SelfView,
        sink: ContactSink,
        config: DhtConfig,
        patience: Patience,
        dials: DialLimits,
        clock: Callable[[], float],
    ) -> None:
        self._protocol = protocol
        self._own = own
        self._sink = sink
        self._config = config
        self._patience = patience
        self._dials = dials
        self._clock = clock
        self._requests = Requests(protocol, clock=clock, on_silence=self._on_silence)
        self._sessions: OrderedDict[Address, Session] = OrderedDict()

    async def find(self, candidate: Candidate, body: wire.FindRecords) -> wire.FoundRecords:
        """Ask for records and contacts; NoAnswer, BadAnswer."""
        exchange, _ = await self._call(
            candidate.peer_id, candidate.address, wire.Call.FIND_RECORDS, wire.pack_body(body)
        )
        return self._read(wire.read_found, exchange.reply.body)

    def find_soon(self, candidate: Candidate, body: bytes, on_found: OnFound) -> bool:
        """Ask as `find` does with a packed body, without a task; False: a hello must go first.

        `on_found` hears of it later, once, never from within; NoAnswer when too much is under way.
        """
        peer_id, address = candidate.peer_id, candidate.address
        session = self._session(peer_id, address)
        now = self._clock()
        if session is None or now - session.since >= TOKEN_LIFE_S:
            return False

        def build(message_id: bytes) -> bytes:
            return wire.pack_headed(message_id, session.find_head, body)

        def on_end(outcome: Answer | DhtError) -> None:
            found: wire.FoundRecords | DhtError | None
            try:
                found = self._found(session, address, outcome)
            except DhtError as error:
                found = error
            on_found(found)

        self._begin(peer_id, address, build, now + self._config.call_timeout_s, on_end)
        return True

    def _found(
        self, session: Session, address: Address, outcome: Answer | DhtError
    ) -> wire.FoundRecords | None:
        """Read the answer to a call that went with our token; None where that was refused."""
        if isinstance(outcome, DhtError):
            self._unanswered(session.peer_id, address)
            raise outcome
        quick = wire.read_found_reply(outcome.value)
        if quick is not None and quick.status is _OK:
            self._sink.on_answered(session.peer_id, address, outcome.rtt_s)
            return quick.body
        reply = self._read(wire.read_reply, outcome.value)
        if reply.status is _OK:
            self._sink.on_answered(session.peer_id, address, outcome.rtt_s)
            return self._read(wire.read_found, reply.body)
        if self._sessions.get(address) is session:
            del self._sessions[address]
        return None

    async def store(self, candidate: Candidate, records: Sequence[Record]) -> acks.Receipt:
        """Store a batch that fits one datagram; NoAnswer, BadAnswer where the proof is missing."""
        encoded = tuple(encode_record(record) for record in records)
        body = wire.pack_body(wire.StoreRecords(encoded))
        exchange, session = await self._call(
            candidate.peer_id, candidate.address, wire.Call.STORE_RECORDS, body
        )
        stored = self._read(wire.read_stored, exchange.reply.body)
        return self.check_receipt(session.public_key, exchange.message_id, encoded, stored)

    def check_receipt(
        self,
        storer_key: bytes,
        message_id: bytes,
        encoded: Sequence[bytes],
        stored: wire.StoredRecords,
    ) -> acks.Receipt:
        """Check a signed acknowledgement of our own batch; BadAnswer."""
        return acks.check(
            stored,
            storer_key=storer_key,
            requester_id=self._own.peer_id,
            message_id=message_id,
            encoded=encoded,
            network_id=self._own.network.network_id,
        )

    async def hello(
        self,
        address: Address,
        peer_id: bytes | None = None,
        *,
        in_return: bool = False,
        is_hint: bool = False,
        timeout_s: float | None = None,
    ) -> bytes:
        """Prove who is at an address, also where a session exists; return its peer id.

        `is_hint`: others gave us the address, so that dial limits hold.
        """
        body = wire.pack_body(wire.SayHello(in_return=True)) if in_return else NO_BODY
        _, session = await self._call(
            peer_id,
            address,
            wire.Call.HELLO,
            body,
            timeout_s=timeout_s,
            afresh=True,
            is_hint=is_hint,
        )
        return session.peer_id

    async def dial_back(self, candidate: Candidate, body: wire.DialBack) -> wire.DialBackState:
        """Ask a contact to dial us, or what became of that; NoAnswer, BadAnswer."""
        exchange, _ = await self._call(
            candidate.peer_id, candidate.address, wire.Call.DIAL_BACK, wire.pack_body(body)
        )
        return self._read(wire.read_dialled_back, exchange.reply.body).state

    async def ping(self, candidate: Candidate, *, timeout_s: float | None = None) -> None:
        """Find out whether a contact lives; NoAnswer when it does not.

        It knows us already: a hello, where our token has run out, asks for none in return.
        """
        await self._call(
            candidate.peer_id,
            candidate.address,
            wire.Call.HELLO,
            wire.pack_body(wire.SayHello(in_return=True)),
            timeout_s=timeout_s,
            is_hint=False,
        )

    def is_silent(self, address: Address) -> bool:
        """Tell whether an address answers nothing at present."""
        return self._patience.is_silent(address, now=self._clock())

    async def wait_for(
        self,
        task: asyncio.Task[None],
        peer_id: bytes | None,
        address: Address,
        *,
        at_most_s: float = math.inf,
    ) -> None:
        """Wait for a task that calls a peer until it ends or the peer is silent for too long.

        The task goes on in any case.
        """
        if peer_id is None and (session := self._sessions.get(address)) is not None:
            peer_id = session.peer_id
        deadline = self._clock() + at_most_s
        while not task.done():
            now = self._clock()
            left_s = min(deadline - now, self._config.call_timeout_s)
            wait_s = self._patience.wait_s(peer_id, address, at_most_s=left_s, now=now)
            await asyncio.wait([task], timeout=max(0.0, wait_s))
            if task.done() or self.is_silent(address):
                return
            if self._clock() >= deadline:
                self._patience.silent(address, now=self._clock())

    def hold_back(self) -> None:
        """Let whoever was just woken go on before more answers are taken in."""
        self._protocol.hold_back()

    def public_key_at(self, candidate: Candidate) -> bytes | None:
        """The key that a candidate proved at its address, if it did."""
        session = self._session(candidate.peer_id, candidate.address)
        return None if session is None else session.public_key

    def forget(self, address: Address) -> None:
        """Drop the session at an address."""
        self._sessions.pop(address, None)

    def store_room_bytes(self) -> int:
        """How many bytes of records fit one store call."""
        head = wire.pack_call(
            bytes(wire.MESSAGE_ID_BYTES),
            wire.Call.STORE_RECORDS,
            wire.Sender(self._own.peer_id, bytes(wire.TOKEN_BYTES_MAX)),
            b"\x91\xdc\x00\x00",
            0,
        )
        return self._protocol.room_bytes - len(head)

    async def _call(
        self,
        peer_id: bytes | None,
        address: Address,
        call: wire.Call,
        body: bytes,
        *,
        timeout_s: float | None = None,
        afresh: bool = False,
        is_hint: bool = True,
    ) -> tuple[_Exchange, Session]:
        """Make one call; one to a hint that never proved itself within the limits for strangers."""
        timeout_s = self._config.call_timeout_s if timeout_s is None else timeout_s
        deadline = self._clock() + timeout_s
        if not is_hint or address in self._sessions:
            return await self._converse(peer_id, address, call, body, deadline, afresh=afresh)
        if not self._dials.allows(address, now=self._clock()):
            self._protocol.drops["dial-limited"] += 1
            raise NoAnswer(f"{address} is left alone for now")
        try:
            return await self._converse(peer_id, address, call, body, deadline, afresh=afresh)
        finally:
            if address in self._sessions:
                self._dials.answered(address)

    async def _converse(
        self,
        peer_id: bytes | None,
        address: Address,
        call: wire.Call,
        body: bytes,
        deadline: float,
        *,
        afresh: bool,
    ) -> tuple[_Exchange, Session]:
        """Send a call with the hellos and repeats that it needs; afresh: prove the peer anew."""
        for _ in range(ATTEMPTS_MAX):
            session = None if afresh else self._session(peer_id, address)
            if session is not None and self._clock() - session.since >= TOKEN_LIFE_S:
                session = None  # it would be refused
            # A hello and a full batch do not fit one datagram, so the hello goes first.
            greets = session is None and call is wire.Call.STORE_RECORDS
            sent = (wire.Call.HELLO, NO_BODY) if greets else (call, body)
            exchange = await self._exchange(peer_id, address, session, *sent, deadline)
            proved = self._take(exchange, peer_id, address)
            if greets:
                continue
            if exchange.reply.status is wire.Status.OK:
                if session is not None:
                    self._sink.on_answered(session.peer_id, address, exchange.rtt_s)
                if (known := session or proved) is not None:
                    return exchange, known
                # Not the word of the peer that we wanted: it may be elsewhere.
                self._protocol.drops["answer-unproven"] += 1
                raise NoAnswer("answered a hello without a proof")
            if session is not None and self._sessions.get(address) is session:
                del self._sessions[address]
        self._protocol.drops["answer-token"] += 1
        raise NoAnswer("our token is refused again and again")

    def _session(self, peer_id: bytes | None, address: Address) -> Session | None:
        session = self._sessions.get(address)
        if session is None or (peer_id is not None and peer_id != session.peer_id):
            return None
        self._sessions.move_to_end(address)
        return session

    async def _exchange(
        self,
        peer_id: bytes | None,
        address: Address,
        session: Session | None,
        call: wire.Call,
        body: bytes,
        deadline: float,
    ) -> _Exchange:
        """Send one request, once more when it stays unanswered, and read the answer."""
        hellos: dict[bytes, Hello | None] = {}

        def build(message_id: bytes) -> bytes:
            hello = None if session else self._own.hello(address, peer_id or UNKNOWN_ID)
            hellos[message_id] = hello
            token = session.token if session else b""
            sender = wire.Sender(self._own.peer_id, token, hello)
            size_bytes = self._protocol.room_bytes if hello else 0
            return wire.pack_call(message_id, call, sender, body, size_bytes)

        answer = await self._ask(peer_id, address, build, deadline)
        try:
            reply = wire.read_reply(answer.value)
        except BadMessage as error:
            bad = self._bad("reply-malformed", str(error))
            # An unproven answerer's garbage says nothing about the peer that we wanted.
            raise (bad if session else NoAnswer(str(error))) from error
        return _Exchange(answer.message_id, hellos[answer.message_id], reply, answer.rtt_s)

    async def _ask(
        self,
        peer_id: bytes | None,
        address: Address,
        build: Callable[[bytes], bytes],
        deadline: float,
    ) -> Answer:
        """Send a request and, unanswered, its repeat; return the answer."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def on_end(outcome: Answer | DhtError) -> None:
            if answered.done():  # whoever waited was cancelled just now
                return
            if isinstance(outcome, DhtError):
                answered.set_exception(outcome)
            else:
                answered.set_result(outcome)

        request = self._begin(peer_id, address, build, deadline, on_end)
        try:
            return await answered
        except NoAnswer:
            self._unanswered(peer_id, address)
            raise
        finally:
            self._requests.drop(request)

    def _begin(
        self,
        peer_id: bytes | None,
        address: Address,
        build: Callable[[bytes], bytes],
        deadline: float,
        on_end: OnEnd,
    ) -> Request:
        config = self._config
        return self._requests.begin(
            address,
            build,
            patience_s=self._patience.resend_s(peer_id, address, unknown_s=config.resend_s),
            repeat_s=config.call_timeout_s,
            deadline=deadline,
            on_end=on_end,
        )

    def _on_silence(self, address: Address) -> None:
        self._patience.silent(address, now=self._clock())

    def _unanswered(self, peer_id: bytes | None, address: Address) -> None:
        """Count a request that nobody answered, unless it ended because we close."""
        if not self._protocol.is_open:
            return
        if address not in self._sessions:
            self._dials.silent(address, now=self._clock())
        if peer_id is not None:
            self._sink.on_silent(peer_id, address)

    def _take(self, exchange: _Exchange, peer_id: bytes | None, address: Address) -> Session | None:
        """Check the proof in a reply, if there is one, and open a session with it."""
        proof = exchange.reply.proof
        if proof is None or exchange.hello is None:
            return None
        network_id = self._own.network.network_id
        try:
            proved = check_answer(proof.answer, exchange.hello, network_id, peer_id)
        except BadHello as error:
            # Somebody else answers there: no word against the peer that we wanted.
            self._protocol.drops[f"answer-{error.reason}"] += 1
            raise NoAnswer(f"{address} is not who we asked for") from error
        sender = wire.Sender(self._own.peer_id, proof.token)
        head = wire.call_head(wire.Call.FIND_RECORDS, sender)
        session = Session(proved, proof.answer.public_key, proof.token, self._clock(), head)
        self._sessions[address] = session
        self._sessions.move_to_end(address)
        while len(self._sessions) > self._config.sessions_max:
            self._sessions.popitem(last=False)
        self._sink.on_proven(Proven(proved, address, proof.answer, proof.wall_ms, exchange.rtt_s))
        return session

    def _read(self, read: Callable[[msgspec.Raw], Body], body: msgspec.Raw) -> Body:
        try:
            return read(body)
        except BadMessage as error:
            raise self._bad("reply-malformed", str(error)) from error

    def _bad(self, counter: str, text: str) -> DhtError:
        self._protocol.drops[counter] += 1
        return BadAnswer(text)
