"""The bytes of a datagram: rpcudp frames, our own calls and the five stock ones.

Owns the frame, the message structs, their limits and their codec. It must not know
sockets, clocks, tables or which contact is proven: `dht.protocol` decides that.

A frame is one kind byte (0 request, 1 response), a message id of 20 bytes and one
msgpack value, as in rpcudp, so that a stock node can read the stock calls. The
value of a request is `[name, arguments]`.
"""

import enum
from typing import Annotated, TypeVar

import msgspec

from dht.errors import BadMessage
from dht.hello import Hello, HelloAnswer

DATAGRAM_BYTES_MAX = 1_200
MESSAGE_ID_BYTES = 20
FRAME_HEAD_BYTES = 1 + MESSAGE_ID_BYTES
CALL_NAME_BYTES_MAX = 32
CONTACTS_MAX = 20
KINDS_MAX = 8
WORDS_MAX = 8
RECORDS_MAX = 32
CURSOR_BYTES_MAX = 128
TOKEN_BYTES_MAX = 32
WALL_MS_MAX = 1 << 53
SEQUENCE_MAX = (1 << 63) - 1

PeerIdBytes = Annotated[bytes, msgspec.Meta(min_length=20, max_length=20)]
KeyBytes = PeerIdBytes
TokenBytes = Annotated[bytes, msgspec.Meta(max_length=TOKEN_BYTES_MAX)]
CursorBytes = Annotated[bytes, msgspec.Meta(max_length=CURSOR_BYTES_MAX)]
RecordBytes = Annotated[bytes, msgspec.Meta(min_length=1, max_length=900)]
SignatureBytes = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
WallMs = Annotated[int, msgspec.Meta(ge=0, le=WALL_MS_MAX)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
ProbeNonce = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
CompactContact = Annotated[bytes, msgspec.Meta(min_length=27, max_length=39)]


class FrameKind(enum.IntEnum):
    """The first byte of a frame."""

    REQUEST = 0
    RESPONSE = 1


class Call(enum.StrEnum):
    """The function names that this node answers; the last five are stock Kademlia's."""

    FIND_RECORDS = "find_records"
    STORE_RECORDS = "store_records"
    HELLO = "hello"
    DIAL_BACK = "dial_back"
    PROBE = "probe"
    STUN = "stun"
    PING = "ping"
    FIND_NODE = "find_node"
    FIND_VALUE = "find_value"
    STORE = "store"


OUR_CALLS = frozenset(
    {Call.FIND_RECORDS, Call.STORE_RECORDS, Call.HELLO, Call.DIAL_BACK, Call.PROBE}
)


class Status(enum.IntEnum):
    """How a request of ours was answered."""

    OK = 0
    TOKEN = 1
    """The address token was missing, wrong or too old: repeat with a hello or the new token."""


class Sender(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who asks: a claimed id with an address token, or with a signed hello."""

    peer_id: PeerIdBytes
    token: TokenBytes = b""
    hello: Hello | None = None


class SayHello(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Ask for a proof, in return for a hello or unasked."""

    in_return: bool = False
    """A hello in return is not answered by another one: two peers would greet for ever."""


class FindRecords(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Ask for the records under a key, and for the contacts closest to it."""

    key: KeyBytes
    kinds: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=255)], ...], msgspec.Meta(max_length=KINDS_MAX)
    ] = ()
    """No kinds: contacts alone are wanted."""
    words: Annotated[tuple[Word, ...], msgspec.Meta(max_length=WORDS_MAX)] = ()
    cursor: CursorBytes = b""
    contacts_wanted: Annotated[int, msgspec.Meta(ge=0, le=CONTACTS_MAX)] = CONTACTS_MAX
    withdrawn: bool = False
    """Tombstones too, so that a reader knows what a storer that missed one still offers."""
    prefix: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """How one more word of the filename begins, folded; empty: any name will do."""


class FoundRecords(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A page of records with the cursor of the next one, and compact contacts."""

    records: Annotated[tuple[RecordBytes, ...], msgspec.Meta(max_length=RECORDS_MAX)] = ()
    cursor: CursorBytes = b""
    """Empty when this was the last page."""
    contacts: Annotated[tuple[CompactContact, ...], msgspec.Meta(max_length=CONTACTS_MAX)] = ()
    heat: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    """How complete the records of a word are: see `dht.heat`."""


class StoreRecords(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Ask to keep a batch of signed records."""

    records: Annotated[tuple[RecordBytes, ...], msgspec.Meta(min_length=1, max_length=RECORDS_MAX)]


class VerdictLine(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a storer did with one record."""

    verdict: Annotated[int, msgspec.Meta(ge=0, le=255)]
    sequence: Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)] | None = None
    our_ms: WallMs | None = None


class StoredRecords(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A verdict for each record, in order, and the storer's signature over all of them."""

    verdicts: Annotated[tuple[VerdictLine, ...], msgspec.Meta(max_length=RECORDS_MAX)]
    signature: SignatureBytes


class DialBack(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Ask to be dialled at a port of the host that this request comes from.

    Asked again with the same nonce it tells what became of it.
    """

    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    nonce: ProbeNonce
    tcp: bool = True
    """Whether anybody listens on TCP there, too."""


class DialBackState(enum.IntEnum):
    """How far a dial back has come; the datagrams themselves tell whether UDP gets through."""

    TRYING = 0
    OPEN = 1
    """Probes were sent, and TCP, where asked for, met the asker."""
    CLOSED = 2
    """Probes were sent, but TCP did not meet the asker."""
    BUSY = 3
    """Nothing was or will be tried: ask somebody else."""


class DialledBack(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The answer to `dial_back`."""

    state: DialBackState


class Probe(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What comes from a fresh port to whoever asked to be dialled; it is not answered."""

    nonce: ProbeNonce


class Proof(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The answer to a hello: who answers, a token for the asker's address, the wall time."""

    answer: HelloAnswer
    token: TokenBytes
    wall_ms: WallMs


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The envelope of every answer to a call of ours."""

    status: Status
    proof: Proof | None = None
    body: msgspec.Raw = msgspec.Raw(b"\xc0")


class FoundReply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A `Reply` to `find_records` with its body in place: the same bytes, taken in one step."""

    status: Status
    proof: Proof | None
    body: FoundRecords


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A datagram taken apart, its value still undecoded."""

    kind: FrameKind
    message_id: bytes
    value: msgspec.Raw


class Request(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The value of a request frame: a function's name and its arguments."""

    name: Annotated[str, msgspec.Meta(max_length=CALL_NAME_BYTES_MAX)]
    arguments: msgspec.Raw


class CallArguments(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The arguments of our calls: the sender, the call's body, padding that nobody reads."""

    sender: Sender
    body: msgspec.Raw
    padding: msgspec.Raw = msgspec.Raw(b"\xc0")


Message = TypeVar("Message")

_OK = Status.OK
_KINDS = {int(kind): kind for kind in FrameKind}
_HEADS = {kind: bytes((kind,)) for kind in FrameKind}
_CALL_HEADS = {call: b"\x92" + msgspec.msgpack.encode(call.value) + b"\x93" for call in Call}
_pack = msgspec.msgpack.Encoder().encode
_request = msgspec.msgpack.Decoder(Request)
_arguments = msgspec.msgpack.Decoder(CallArguments)
_reply = msgspec.msgpack.Decoder(Reply)
_say_hello = msgspec.msgpack.Decoder(SayHello)
_find = msgspec.msgpack.Decoder(FindRecords)
_found = msgspec.msgpack.Decoder(FoundRecords)
_found_reply = msgspec.msgpack.Decoder(FoundReply)
_store = msgspec.msgpack.Decoder(StoreRecords)
_stored = msgspec.msgpack.Decoder(StoredRecords)
_dial_back = msgspec.msgpack.Decoder(DialBack)
_dialled_back = msgspec.msgpack.Decoder(DialledBack)
_probe = msgspec.msgpack.Decoder(Probe)


def split_frame(data: bytes) -> Frame:
    """Take a datagram apart; BadMessage when it is no frame."""
    if len(data) <= FRAME_HEAD_BYTES:
        raise BadMessage("shorter than a frame")
    if (kind := _KINDS.get(data[0])) is None:
        raise BadMessage("unknown frame kind")
    return Frame(kind, data[1:FRAME_HEAD_BYTES], msgspec.Raw(data[FRAME_HEAD_BYTES:]))


def pack_frame(kind: FrameKind, message_id: bytes, value: bytes) -> bytes:
    """Join a frame of one kind around a packed value."""
    assert len(message_id) == MESSAGE_ID_BYTES, "a message id has 20 bytes"
    return _HEADS[kind] + message_id + value


def pack_call(message_id: bytes, call: Call, sender: Sender, body: bytes, size_bytes: int) -> bytes:
    """Build the datagram of a call of ours, padded up to size_bytes (0: not padded)."""
    head = call_head(call, sender)
    missing = size_bytes - FRAME_HEAD_BYTES - len(head) - len(body)
    if missing < 1:
        return pack_headed(message_id, head, body)
    return pack_frame(FrameKind.REQUEST, message_id, head + body) + _padding(missing)


def call_head(call: Call, sender: Sender) -> bytes:
    """Pack what all calls of one kind from one sender begin with, for `pack_headed`."""
    return _CALL_HEADS[call] + _pack(sender)


def pack_headed(message_id: bytes, head: bytes, body: bytes) -> bytes:
    """Build the datagram of a call of ours, not padded."""
    assert len(message_id) == MESSAGE_ID_BYTES, "a message id has 20 bytes"
    return b"\x00%b%b%b\xc4\x00" % (message_id, head, body)


def pack_reply(
    message_id: bytes, status: Status, proof: Proof | None, body: bytes = b"\xc0"
) -> bytes:
    """Build the datagram that answers a call of ours."""
    value = _pack(Reply(status, proof, msgspec.Raw(body)))
    return pack_frame(FrameKind.RESPONSE, message_id, value)


def pack_found_reply(message_id: bytes, proof: Proof | None, found: FoundRecords) -> bytes:
    """Build the datagram that answers `find_records`: as `pack_reply` does with it as the body."""
    return pack_frame(FrameKind.RESPONSE, message_id, _pack(FoundReply(_OK, proof, found)))


def pack_stock_reply(message_id: bytes, value: object) -> bytes:
    """Build the datagram that answers a stock call."""
    return pack_frame(FrameKind.RESPONSE, message_id, _pack(value))


def pack_stock_call(message_id: bytes, call: Call, *arguments: object) -> bytes:
    """Build the datagram of a stock call."""
    return pack_frame(FrameKind.REQUEST, message_id, _pack([call.value, list(arguments)]))


def pack_body(
    body: SayHello
    | FindRecords
    | FoundRecords
    | StoreRecords
    | StoredRecords
    | VerdictLine
    | DialBack
    | DialledBack
    | Probe
    | Proof
    | None,
) -> bytes:
    """Encode the body of a call or of its answer."""
    return _pack(body)


def read_request(value: msgspec.Raw) -> Request:
    """Decode a request's name; its arguments stay packed."""
    return _decode(_request, value)


def read_arguments(value: msgspec.Raw) -> CallArguments:
    """Decode the sender of a call of ours; its body stays packed."""
    return _decode(_arguments, value)


def read_reply(value: msgspec.Raw) -> Reply:
    """Decode the envelope of an answer; its body stays packed."""
    return _decode(_reply, value)


def read_say_hello(value: msgspec.Raw) -> SayHello:
    """Decode the body of `hello`."""
    return _decode(_say_hello, value)


def read_find(value: msgspec.Raw) -> FindRecords:
    """Decode the body of `find_records`."""
    return _decode(_find, value)


def read_found(value: msgspec.Raw) -> FoundRecords:
    """Decode the answer to `find_records`."""
    return _decode(_found, value)


def read_found_reply(value: msgspec.Raw) -> FoundReply | None:
    """Decode an answer that holds what was found; None for any other, and for a malformed one.

    Those are for `read_reply` and `read_found`, which tell them apart.
    """
    try:
        return _found_reply.decode(value)
    except (ValueError, OverflowError, RecursionError):
        return None


def read_store(value: msgspec.Raw) -> StoreRecords:
    """Decode the body of `store_records`."""
    return _decode(_store, value)


def read_stored(value: msgspec.Raw) -> StoredRecords:
    """Decode the answer to `store_records`."""
    return _decode(_stored, value)


def read_dial_back(value: msgspec.Raw) -> DialBack:
    """Decode the body of `dial_back`."""
    return _decode(_dial_back, value)


def read_dialled_back(value: msgspec.Raw) -> DialledBack:
    """Decode the answer to `dial_back`."""
    return _decode(_dialled_back, value)


def read_probe(value: msgspec.Raw) -> Probe:
    """Decode the body of `probe`."""
    return _decode(_probe, value)


def read_stock_arguments(value: msgspec.Raw, count: int) -> list[object]:
    """Decode a stock call's arguments: exactly count of them."""
    arguments = _decode(_anything, value)
    if len(arguments) != count:
        raise BadMessage("wrong number of arguments")
    return arguments


def read_peer_id(value: msgspec.Raw) -> bytes:
    """Decode a bare id, the answer to a stock ping."""
    return _decode(_bare_id, value)


_anything = msgspec.msgpack.Decoder(list[object])
_bare_id = msgspec.msgpack.Decoder(PeerIdBytes)


def _decode(decoder: msgspec.msgpack.Decoder[Message], value: msgspec.Raw) -> Message:
    try:
        return decoder.decode(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise BadMessage(str(error)) from error


def _padding(size_bytes: int) -> bytes:
    """A msgpack binary that is size_bytes long in all, its head included."""
    if size_bytes < 2:
        return b"\xc0"
    if size_bytes - 2 <= 0xFF:
        return b"\xc4" + bytes((size_bytes - 2,)) + bytes(size_bytes - 2)
    return b"\xc5" + (size_bytes - 3).to_bytes(2, "big") + bytes(size_bytes - 3)
