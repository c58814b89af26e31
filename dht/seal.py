"""Sealing of datagrams: on a private network an outsider's is dropped before it is parsed.

Owns the sealed layout, session keys and the replay window. Knows no socket, message or clock.

Layout: version (1 byte, 1) | session (16, random a process) | counter (8, big-endian) |
ChaCha20-Poly1305 ciphertext and tag. The key is `network.derive("datagram", session)`, the nonce
four zero bytes and the counter, the additional data the 25 bytes before the ciphertext.

Limits of what it promises: members and former members can forge datagrams; a session that we have
not seen, or have forgotten, can be opened by a replayed old datagram. The harm is bounded: each
such datagram is taken once, answered at most with its own size (an old address token is long
void), and everything that matters inside is signed, with nonces of its own.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from identity.network import Network

SEAL_VERSION: Final = 1
SESSION_BYTES: Final = 16
_COUNTER_BYTES: Final = 8
_HEADER_BYTES: Final = 1 + SESSION_BYTES + _COUNTER_BYTES
_TAG_BYTES: Final = 16
SEAL_OVERHEAD_BYTES: Final = _HEADER_BYTES + _TAG_BYTES
"""What sealing adds to a datagram."""
REPLAY_WINDOW: Final = 1_024
"""How far behind the newest counter of a session a datagram may arrive, in datagrams."""


class Sealer(Protocol):
    """What the wire needs of sealing."""

    overhead_bytes: int
    drops: Counter[str]

    def seal(self, data: bytes) -> bytes: ...
    def open(self, data: bytes) -> bytes | None: ...


class PlainSealer:
    """Datagrams of an open network: passed through."""

    overhead_bytes: int = 0

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()

    def seal(self, data: bytes) -> bytes:
        """Return the data itself."""
        return data

    def open(self, data: bytes) -> bytes | None:
        """Return the data itself."""
        return data


@dataclass(slots=True)
class _Session:
    """One sender's key and the counters taken from it: bit i of `taken` is `newest` - i."""

    key: ChaCha20Poly1305
    newest: int = -1
    taken: int = 0

    def is_fresh(self, counter: int) -> bool:
        behind = self.newest - counter
        return behind < 0 or (behind < REPLAY_WINDOW and not self.taken >> behind & 1)

    def take(self, counter: int) -> None:
        ahead = counter - self.newest
        if ahead > 0:
            kept = self.taken << ahead if ahead < REPLAY_WINDOW else 0
            self.taken = (kept | 1) & ((1 << REPLAY_WINDOW) - 1)
            self.newest = counter
        else:
            self.taken |= 1 << -ahead


class DatagramSealer:
    """Seal and open the datagrams of a private network.

    Inputs: `seal`, `open`. Output: bytes, or None and a count in `drops` ("short", "version",
    "own", "replayed", "forged"). Invariants: at most `sessions_max` sessions, and one enters only
    by a datagram that opened, so that an outsider costs one failed AEAD a datagram and evicts
    nobody; no (session, counter) is opened twice while its session is remembered; no nonce is
    used twice, as long as `session` is fresh random bytes for each sealer.
    """

    overhead_bytes: int = SEAL_OVERHEAD_BYTES

    def __init__(self, network: Network, session: bytes, *, sessions_max: int = 4_096) -> None:
        assert len(session) == SESSION_BYTES, "a session is 16 random bytes"
        assert sessions_max >= 1
        self._network = network
        self._session = session
        self._sessions_max = sessions_max
        self._counter = 0
        self._prefix = bytes([SEAL_VERSION]) + session
        self._key = self._key_of(session)
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self.drops: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    def seal(self, data: bytes) -> bytes:
        """Return the sealed datagram, `SEAL_OVERHEAD_BYTES` longer."""
        counter = self._counter.to_bytes(_COUNTER_BYTES, "big")
        self._counter += 1
        header = self._prefix + counter
        return header + self._key.encrypt(_nonce(counter), data, header)

    def open(self, data: bytes) -> bytes | None:
        """Return what a member sealed, or None: drop it, the reason is counted."""
        if len(data) < SEAL_OVERHEAD_BYTES:
            return self._drop("short")
        if data[0] != SEAL_VERSION:
            return self._drop("version")
        name = data[1 : 1 + SESSION_BYTES]
        if name == self._session:
            return self._drop("own")
        header, sealed = data[:_HEADER_BYTES], data[_HEADER_BYTES:]
        counter_bytes = header[1 + SESSION_BYTES :]
        counter = int.from_bytes(counter_bytes, "big")
        session = self._sessions.get(name)
        if session is None:
            session = _Session(self._key_of(name))
        elif not session.is_fresh(counter):
            return self._drop("replayed")
        try:
            opened = session.key.decrypt(_nonce(counter_bytes), sealed, header)
        except InvalidTag:
            return self._drop("forged")
        session.take(counter)
        self._remember(name, session)
        return opened

    def _remember(self, name: bytes, session: _Session) -> None:
        self._sessions[name] = session
        self._sessions.move_to_end(name)
        while len(self._sessions) > self._sessions_max:
            self._sessions.popitem(last=False)

    def _key_of(self, session: bytes) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(self._network.derive("datagram", session))

    def _drop(self, reason: str) -> bytes | None:
        self.drops[reason] += 1
        return None


def sealer_of(network: Network, session: bytes) -> Sealer:
    """Return the sealer of a network; `session` is 16 fresh random bytes."""
    return DatagramSealer(network, session) if network.is_private else PlainSealer()


def _nonce(counter: bytes) -> bytes:
    return b"\0\0\0\0" + counter
