"""Coverage-guided fuzzing of what reads bytes from others, with atheris.

`python -m tests.fuzz.decoders -runs=200000 -seed=1`; the options are libFuzzer's. A decoder may
raise its own typed error and nothing else. The corpus begins with one sound message of each kind.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=[
        *("dht.wire", "dht.hello", "dht.records", "dht.payloads", "dht.seal", "dht.hints"),
        *("transfer.manifest", "transfer.tree", "transfer.tree_paths", "transfer.wire"),
        "transfer.folder_stream",
    ]
):
    import transfer.wire as transfer_wire
    from dht import hello, hints, payloads, records, seal, wire
    from transfer import folder_stream, manifest, tree

import msgspec

from dht.errors import BadMessage, BadRecord
from identity.address import Address
from identity.keys import Identity
from identity.network import Network
from tests.dht.nodes import file_payloads
from tests.dht.sink import bodies
from transfer.errors import TransferError

OPEN = Network("fuzz")
PRIVATE = Network("fuzz", b"k" * 32)
IDENTITY = Identity.from_seed(b"f" * 32)
NOW_MS = 1_800_000_000_000
READERS = (
    wire.read_request,
    wire.read_arguments,
    wire.read_reply,
    wire.read_say_hello,
    wire.read_find,
    wire.read_found,
    wire.read_store,
    wire.read_stored,
    wire.read_dial_back,
    wire.read_dialled_back,
    wire.read_probe,
    wire.read_peer_id,
    lambda value: wire.read_stock_arguments(value, 2),
)


def read_frame(data: bytes) -> None:
    """A frame, its request and arguments, its hello, and its body as that of each call."""
    frame = wire.split_frame(data)
    for read in READERS:
        with contextlib.suppress(BadMessage):
            read(frame.value)
    with contextlib.suppress(BadMessage):
        arguments = wire.read_arguments(wire.read_request(frame.value).arguments)
        if arguments.sender.hello is not None:
            hello.check_hello(arguments.sender.hello, OPEN.network_id)
        for read in READERS:
            with contextlib.suppress(BadMessage):
                read(arguments.body)


def read_record(data: bytes) -> None:
    """A record with its payload, checked but for its signature, then with it."""
    record = records.decode_record(data)
    for kind in payloads.Kind:
        with contextlib.suppress(BadRecord):
            payloads.decode_payload(kind, record.payload)
    records.check_record(record, OPEN.network_id, now_ms=NOW_MS)


def read_sealed(data: bytes) -> None:
    """A datagram of a private network."""
    sealer = seal.sealer_of(PRIVATE, b"s" * 16)
    sealer.open(data)


def read_contact(data: bytes) -> None:
    """A compact contact, and whether it is believed."""
    hints.is_believable(hints.unpack_contact(data).address.host, "8.8.8.8")


def read_tree(data: bytes) -> None:
    """The listing of a folder; what is believed has these bytes and no others."""
    found = tuple(tree._entries_in(data))
    size_bytes = sum(entry.size_bytes for entry in found)
    described = manifest.TreeManifest(len(data), tree._digests(data), len(found), size_bytes)
    assert tree.Tree.of(tree.decode_tree(data, described).entries).listing == data


def read_stream(data: bytes) -> None:
    """A folder's stream, of the folder that it says it is, in two pieces."""
    at = 20 + int.from_bytes(data[16:20])
    reader = folder_stream.FolderReader(manifest.decode_manifest(data[20:at]).content_id)
    reader.feed(data[: at + 7])
    reader.feed(data[at + 7 :])


def read_transfer(data: bytes) -> None:
    """A manifest, a request for chunks or packs, and a frame."""
    transfer_wire.decode_fetch_request(data)
    transfer_wire.decode_frame(data)
    assert manifest.decode_manifest(data).encode() == data


TARGETS = (
    read_frame,
    read_record,
    read_sealed,
    read_contact,
    read_tree,
    read_transfer,
    read_stream,
)


def one_input(data: bytes) -> None:
    """Give the bytes to the decoder that the first one chooses."""
    if data:
        with contextlib.suppress(BadMessage, BadRecord, hello.BadHello, TransferError):
            TARGETS[data[0] % len(TARGETS)](data[1:])


def corpus() -> list[bytes]:
    """One sound message of each kind, with the byte that chooses its decoder."""
    rng = random.Random(1)
    said = hello.make_hello(
        IDENTITY, OPEN.network_id, nonce=b"n" * 16, dialled=Address("192.0.2.1", 4100)
    )
    encoded = [
        records.encode_record(
            records.sign_record(
                IDENTITY, OPEN.network_id, payload, sequence=NOW_MS, issued_ms=NOW_MS
            )
        )
        for payload in file_payloads()
    ]
    calls = bodies(rng, b"k" * 20, encoded[0])
    frames = [
        wire.pack_call(b"m" * 20, call, wire.Sender(IDENTITY.peer_id, b"t" * 17, said), body, 0)
        for call, body in calls.items()
    ]
    frames.append(wire.pack_reply(b"m" * 20, wire.Status.TOKEN, None))
    found = wire.FoundRecords(tuple(encoded[:2]), b"c" * 20)
    frames.append(wire.pack_reply(b"m" * 20, wire.Status.OK, None, wire.pack_body(found)))
    frames.append(wire.pack_stock_call(b"m" * 20, wire.Call.FIND_NODE, b"i" * 20, b"k" * 20))
    sealed = seal.sealer_of(PRIVATE, b"o" * 16).seal(frames[0])
    contact = hints.pack_contact(b"i" * 20, Address("192.0.2.1", 4100))
    assert contact is not None
    assert msgspec.msgpack.decode(frames[0][21:]), "sound"
    content_id = manifest.content_id_of_chunk(b"shoal")
    folder = tree.Tree.of(
        [
            tree.Entry("bin/run", tree.EntryKind.EXECUTABLE, 5, content_id),
            tree.Entry("bin/again", tree.EntryKind.LINK, target="../bin/run"),
            tree.Entry("empty", tree.EntryKind.FOLDER),
            tree.Entry("zero", tree.EntryKind.FILE, 0, tree.EMPTY_CONTENT_ID),
        ]
    )
    transfer = [
        folder.manifest.encode(),
        manifest.Manifest.of(5, [b"d" * 32]).encode(),
        transfer_wire.encode_pack_request(7, [content_id] * 3),
        transfer_wire.encode_frame(7, transfer_wire.FrameStatus.CHANGED, 2),
    ]
    stream = folder_stream.head_of(folder.manifest) + folder.listing + b"shoal"
    groups = (frames, encoded, [sealed], [contact], [folder.listing], transfer, [stream])
    return [bytes((number,)) + data for number, group in enumerate(groups) for data in group]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(corpus()):
            (Path(folder) / str(number)).write_bytes(data)
        atheris.Setup([*sys.argv, "-max_len=1300", folder], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
