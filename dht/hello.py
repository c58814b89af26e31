"""Hellos: two peers prove their keys to each other in one exchange.

Owns the signed fields of a hello and of its answer, their checks, and the memory of hellos seen.
Knows no socket, table or clock; nonces are given (16 fresh random bytes each).

Who is believed what: a hello proves only that its key signed it once, for anybody: it may be
replayed, or relayed from elsewhere. Only an answer to a nonce of OURS proves a contact, at the
address that we dialled. So tables admit only who answered a hello of ours, and a node sends its
own hello back only to an address that came with a valid address token: else a spoofed hello would
turn us against a stranger. `observed` is what one peer says about us: a hint, to be compared.
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Final, NoReturn

import msgspec

from dht.errors import DhtError
from identity.address import Address
from identity.encoding import length_prefixed
from identity.keys import PEER_ID_BYTES, Identity, peer_id_of
from identity.signing import Purpose, verify

NONCE_BYTES: Final = 16
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
UNKNOWN_ID: Final = bytes(PEER_ID_BYTES)
"""The target of a hello to an address whose peer is not known yet."""
NICKNAME_BYTES_MAX: Final = 64
ADVERTISED_MAX: Final = 4
DIALLED_CHARS_MAX: Final = 300
ADDRESS_LISTS_MAX: Final = 4_096
"""Lists of advertised addresses whose packed form is kept: peers say the same ones every time."""

Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]
PublicKey = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
PeerId = Annotated[bytes, msgspec.Meta(min_length=PEER_ID_BYTES, max_length=PEER_ID_BYTES)]
# Characters, not bytes: _check_shape counts the bytes.
Nickname = Annotated[str, msgspec.Meta(max_length=NICKNAME_BYTES_MAX)]
Advertised = Annotated[tuple[Address, ...], msgspec.Meta(max_length=ADVERTISED_MAX)]
Dialled = Annotated[str, msgspec.Meta(max_length=DIALLED_CHARS_MAX)]


class HelloFault(enum.StrEnum):
    """Why a hello or its answer is dropped; also the suffix of the counter that counts it."""

    SHAPE = "shape"
    OURSELVES = "ourselves"
    TARGET = "target"
    WRONG_PEER = "wrong-peer"
    SIGNATURE = "signature"


class BadHello(DhtError):  # noqa: N818 - named by what went wrong, as all our errors are
    """A peer could not prove who it is."""

    def __init__(self, reason: HelloFault) -> None:
        super().__init__(f"refused hello ({reason})")
        self.reason = reason


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """The requester's half; `dialled` is the text of the address that it was sent to."""

    public_key: PublicKey
    nonce: Nonce
    target_id: PeerId
    dialled: Dialled
    advertised: Advertised
    nickname: Nickname
    client: bool
    signature: Signature


class HelloAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The answerer's half; `observed` is where it sees the requester."""

    public_key: PublicKey
    nonce: Nonce
    advertised: Advertised
    nickname: Nickname
    client: bool
    observed: Address
    signature: Signature


def make_hello(
    identity: Identity,
    network_id: bytes,
    *,
    nonce: bytes,
    dialled: Address,
    target_id: bytes = UNKNOWN_ID,
    advertised: Sequence[Address] = (),
    nickname: str = "",
    client: bool = False,
) -> Hello:
    """Return a signed hello for one address; a nickname too long is cut."""
    unsigned = Hello(
        public_key=identity.public_key,
        nonce=nonce,
        target_id=target_id,
        dialled=str(dialled),
        advertised=tuple(advertised)[:ADVERTISED_MAX],
        nickname=fit_nickname(nickname),
        client=client,
        signature=bytes(SIGNATURE_BYTES),
    )
    signature = identity.sign(Purpose.HELLO, network_id, _hello_body(unsigned))
    return msgspec.structs.replace(unsigned, signature=signature)


def check_hello(hello: Hello, network_id: bytes, own_id: bytes | None = None) -> bytes:
    """Return the id whose key signed the hello; BadHello when it is not sound, or not for us.

    With `own_id` a hello meant for another peer, or our own come back, is refused as well.
    """
    _check_shape(hello)
    peer_id = peer_id_of(hello.public_key)
    if own_id is not None:
        if peer_id == own_id:
            _refuse(HelloFault.OURSELVES)
        if hello.target_id not in (UNKNOWN_ID, own_id):
            _refuse(HelloFault.TARGET)
    body = _hello_body(hello)
    if not verify(hello.public_key, hello.signature, Purpose.HELLO, network_id, body):
        _refuse(HelloFault.SIGNATURE)
    return peer_id


def make_answer(
    identity: Identity,
    network_id: bytes,
    hello: Hello,
    *,
    nonce: bytes,
    observed: Address,
    advertised: Sequence[Address] = (),
    nickname: str = "",
    client: bool = False,
) -> HelloAnswer:
    """Return the signed answer to a hello that check_hello took."""
    unsigned = HelloAnswer(
        public_key=identity.public_key,
        nonce=nonce,
        advertised=tuple(advertised)[:ADVERTISED_MAX],
        nickname=fit_nickname(nickname),
        client=client,
        observed=observed,
        signature=bytes(SIGNATURE_BYTES),
    )
    body = _answer_body(unsigned, hello)
    signature = identity.sign(Purpose.HELLO_ANSWER, network_id, body)
    return msgspec.structs.replace(unsigned, signature=signature)


def check_answer(
    answer: HelloAnswer, hello: Hello, network_id: bytes, expected_id: bytes | None = None
) -> bytes:
    """Return the id proved by an answer to OUR hello; BadHello when it proves nothing.

    It must be the expected peer, or the hello's target, where one is known.
    """
    _check_shape(answer)
    peer_id = peer_id_of(answer.public_key)
    if answer.public_key == hello.public_key:
        _refuse(HelloFault.OURSELVES)
    if expected_id not in (None, peer_id) or hello.target_id not in (UNKNOWN_ID, peer_id):
        _refuse(HelloFault.WRONG_PEER)
    body = _answer_body(answer, hello)
    if not verify(answer.public_key, answer.signature, Purpose.HELLO_ANSWER, network_id, body):
        _refuse(HelloFault.SIGNATURE)
    return peer_id


def fit_nickname(nickname: str) -> str:
    """Return the nickname cut to `NICKNAME_BYTES_MAX` bytes of UTF-8, at a character."""
    encoded = nickname.encode("utf-8", "replace")[:NICKNAME_BYTES_MAX]
    return encoded.decode("utf-8", "ignore")


class SeenHellos:
    """Remember the hellos taken last, so that a replayed one is dropped and counted.

    Input: `first_time(peer_id, nonce)`. Invariant: at most `hellos_max` are remembered; an older
    one may pass again, which proves no more than a hello ever does.
    """

    def __init__(self, *, hellos_max: int = 4_096) -> None:
        assert hellos_max >= 1
        self._hellos_max = hellos_max
        self._seen: OrderedDict[tuple[bytes, bytes], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def first_time(self, peer_id: bytes, nonce: bytes) -> bool:
        """Remember a checked hello; False when it was taken before."""
        key = (peer_id, nonce)
        if key in self._seen:
            return False
        self._seen[key] = None
        while len(self._seen) > self._hellos_max:
            self._seen.popitem(last=False)
        return True


def _check_shape(message: Hello | HelloAnswer) -> None:
    """Refuse what decoding does not: sizes in bytes, and sizes of messages built in other ways."""
    fits = (
        len(message.public_key) == KEY_BYTES
        and len(message.nonce) == NONCE_BYTES
        and len(message.signature) == SIGNATURE_BYTES
        and len(message.advertised) <= ADVERTISED_MAX
        and len(message.nickname.encode("utf-8", "replace")) <= NICKNAME_BYTES_MAX
    )
    if fits and isinstance(message, Hello):
        fits = len(message.target_id) == PEER_ID_BYTES and len(message.dialled) <= DIALLED_CHARS_MAX
    if not fits:
        _refuse(HelloFault.SHAPE)


def _refuse(reason: HelloFault) -> NoReturn:
    raise BadHello(reason)


def _hello_body(hello: Hello) -> bytes:
    return length_prefixed(
        peer_id_of(hello.public_key),
        hello.target_id,
        hello.public_key,
        hello.nonce,
        _text(hello.dialled),
        _addresses(hello.advertised),
        _text(hello.nickname),
        _flag(hello.client),
    )


def _answer_body(answer: HelloAnswer, hello: Hello) -> bytes:
    return length_prefixed(
        peer_id_of(hello.public_key),
        peer_id_of(answer.public_key),
        answer.public_key,
        hello.nonce,
        answer.nonce,
        _text(hello.dialled),
        _addresses(answer.advertised),
        _text(answer.nickname),
        _flag(answer.client),
        _text(str(answer.observed)),
    )


@lru_cache(maxsize=ADDRESS_LISTS_MAX)
def _addresses(addresses: tuple[Address, ...]) -> bytes:
    return length_prefixed(*(_text(str(address)) for address in addresses))


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _flag(flag: bool) -> bytes:
    return b"\1" if flag else b"\0"
