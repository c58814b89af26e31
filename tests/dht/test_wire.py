"""The datagram codec: stock-compatible, bounded, and never raising anything but BadMessage."""

import contextlib

import msgspec
import pytest
import umsgpack
from hypothesis import given
from hypothesis import strategies as st

from dht import wire
from dht.errors import BadMessage

ID = b"i" * 20


@given(
    name=st.sampled_from(["ping", "find_node", "store"]),
    arguments=st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 2**40), st.booleans())),
)
def test_stock_calls_are_the_bytes_that_umsgpack_makes(name, arguments):
    ours = wire.pack_stock_call(ID, wire.Call(name), *arguments)
    assert ours == b"\x00" + ID + umsgpack.packb([name, arguments])


def test_stock_contact_list_is_the_bytes_that_umsgpack_makes():
    contacts = [[bytes(20), "127.0.0.1", 4100 + number] for number in range(20)]
    assert wire.pack_stock_reply(ID, contacts) == b"\x01" + ID + umsgpack.packb(contacts)


@given(size=st.integers(100, 1_400))
def test_padded_call_has_the_size_asked_for_and_reads_back(size):
    sender = wire.Sender(b"p" * 20, b"t" * 17)
    body = wire.pack_body(wire.FindRecords(b"k" * 20, (1, 3), ("blue",)))
    data = wire.pack_call(ID, wire.Call.FIND_RECORDS, sender, body, size)
    bare = wire.pack_call(ID, wire.Call.FIND_RECORDS, sender, body, 0)
    assert len(data) == size or size <= len(bare)
    arguments = wire.read_arguments(wire.read_request(wire.split_frame(data).value).arguments)
    assert arguments.sender == sender
    assert wire.read_find(arguments.body) == wire.FindRecords(b"k" * 20, (1, 3), ("blue",))


def test_token_reply_is_smaller_than_any_call_of_ours():
    reply = wire.pack_reply(ID, wire.Status.TOKEN, None)
    smallest = wire.pack_call(ID, wire.Call.HELLO, wire.Sender(b"p" * 20), b"\xc0", 0)
    assert len(reply) < len(smallest)


def test_dial_back_its_answer_and_the_probe_are_these_bytes():
    dial = wire.DialBack(4100, b"n" * 16, True)
    assert wire.pack_body(dial) == b"\x93\xcd\x10\x04\xc4\x10" + b"n" * 16 + b"\xc3"
    dialled = wire.DialledBack(wire.DialBackState.CLOSED)
    assert wire.pack_body(dialled) == b"\x91\x02"
    probe = wire.Probe(b"n" * 16)
    assert wire.pack_body(probe) == b"\x91\xc4\x10" + b"n" * 16
    assert wire.read_dial_back(msgspec.Raw(wire.pack_body(dial))) == dial
    assert wire.read_dialled_back(msgspec.Raw(wire.pack_body(dialled))) == dialled
    assert wire.read_probe(msgspec.Raw(wire.pack_body(probe))) == probe
    assert wire.Call("dial_back") is wire.Call.DIAL_BACK
    assert wire.Call("probe") is wire.Call.PROBE


READERS = [
    wire.read_dial_back,
    wire.read_dialled_back,
    wire.read_probe,
    wire.read_request,
    wire.read_arguments,
    wire.read_reply,
    wire.read_find,
    wire.read_found,
    wire.read_store,
    wire.read_stored,
    wire.read_peer_id,
    lambda value: wire.read_stock_arguments(value, 2),
]


@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_raise_bad_message_alone(data):
    with contextlib.suppress(BadMessage):
        wire.split_frame(data)
    for read in READERS:
        with contextlib.suppress(BadMessage):
            read(msgspec.Raw(data))


@pytest.mark.parametrize("read", READERS)
def test_deeply_nested_value_raises_bad_message(read):
    with pytest.raises(BadMessage):
        read(msgspec.Raw(b"\x91" * 5_000 + b"\xc0"))


def test_limits_of_a_message_are_enforced_by_its_decoder():
    long_key = wire.pack_body(wire.FindRecords(b"k" * 21))
    many_kinds = wire.pack_body(wire.FindRecords(b"k" * 20, tuple(range(9))))
    long_record = wire.pack_body(wire.StoreRecords((b"r" * 901,)))
    for read, data in [
        (wire.read_find, long_key),
        (wire.read_find, many_kinds),
        (wire.read_store, long_record),
        (wire.read_store, wire.pack_body(wire.StoreRecords(()))),
    ]:
        with pytest.raises(BadMessage):
            read(msgspec.Raw(data))


def test_field_added_by_a_later_version_is_ignored():
    later = msgspec.msgpack.encode([b"k" * 20, [1], [], b"", 20, False, "new"])
    assert wire.read_find(msgspec.Raw(later)).key == b"k" * 20


def test_hello_says_in_one_byte_that_it_is_in_return():
    assert wire.pack_body(wire.SayHello(in_return=True)) == b"\x91\xc3"
    assert not wire.read_say_hello(msgspec.Raw(b"\x90")).in_return
