"""The stream in which a folder is delivered: its bytes, any cut, any damage, any beginning."""

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transfer.peers import CHUNK, random_bytes
from tests.transfer.streams import contents_in, manifest_of, stream_of, tree_of
from transfer.errors import BadContent, BadManifest, TransferError, UnsafeName
from transfer.folder_stream import FolderReader, Listed, parts_of, parts_start, stream_bytes
from transfer.manifest import TreeManifest
from transfer.names import check_name
from transfer.push import PushOffer
from transfer.tree import Entry, EntryKind
from transfer.tree_plan import plan_of

LARGE = random_bytes(2 * CHUNK + 7, seed=1)
DATA = st.sampled_from(
    [b"", b"a", b"shoal", random_bytes(900, seed=2), random_bytes(CHUNK, seed=3)]
)
FILES = st.dictionaries(
    st.sampled_from(["a", "b/c", "b/d/e", "run", "zero", "ü"]), DATA, min_size=1, max_size=5
)
SMALL = {"a": b"shoal", "b/twin": b"shoal", "zero": b""}


def read(stream: bytes, content_id: bytes) -> list:
    reader = FolderReader(content_id)
    found = reader.feed(stream)
    assert reader.is_whole
    return found


def test_bytes_of_a_stream_are_as_the_protocol_says() -> None:
    tree = tree_of(SMALL, Entry("link", EntryKind.LINK, target="a"))
    manifest = tree.manifest.encode()
    stream = b"shoal folder 1\0\0\0\0\0\x3f" + manifest + tree.listing + b"shoal"
    assert stream == stream_of(tree, SMALL)
    [listed, came] = read(stream, tree.manifest.content_id)
    assert isinstance(listed, Listed)
    assert listed.tree == tree
    assert (came.content, came.chunk, came.data) == (0, 0, b"shoal")
    assert stream_bytes(tree.manifest, plan_of(tree)) == len(stream)
    assert blake3(stream).hexdigest() == (
        "281b4d8ac11c3720f44b89c7014d3b940b6832b5f1cc52ab360f9c5366edd5c0"
    )


@settings(deadline=None, max_examples=25)
@given(FILES, st.booleans(), st.lists(st.integers(1, CHUNK), max_size=8))
def test_stream_in_any_pieces_gives_each_content_once(
    files: dict[str, bytes], has_large: bool, cuts: list[int]
) -> None:
    if has_large:
        files = {**files, "large": LARGE}
    tree = tree_of(files)
    stream = stream_of(tree, files)
    reader = FolderReader(tree.manifest.content_id)
    found, rest = [], stream
    for cut in cuts:
        found += reader.feed(rest[:cut])
        assert reader.is_whole == (len(rest) <= cut)
        rest = rest[cut:]
    found += reader.feed(rest)
    assert reader.is_whole
    wanted = {manifest_of(data).content_id: data for data in files.values() if data}
    assert contents_in(found) == wanted
    assert stream_bytes(tree.manifest, plan_of(tree)) == len(stream)


def test_reader_resumes_at_every_part() -> None:
    files = {**SMALL, "large": LARGE}
    tree = tree_of(files)
    plan = plan_of(tree)
    stream = stream_of(tree, files)
    parts = list(parts_of(plan))
    at = parts_start(tree.manifest)
    for first in range(len(parts) + 1):
        reader = FolderReader.resumed(tree, plan, first, lambda _place: manifest_of(LARGE))
        found = reader.feed(stream[at:])
        assert reader.is_whole
        assert len(found) == len(parts) - first
        at += 0 if first == len(parts) else parts[first].size_bytes
    assert at == len(stream)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_damaged_stream_is_never_whole(data: st.DataObject) -> None:
    tree = tree_of(SMALL)
    stream = bytearray(stream_of(tree, SMALL))
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    reader = FolderReader(tree.manifest.content_id)
    try:
        reader.feed(stream)
    except TransferError:
        with pytest.raises(BadContent):  # once it has failed it takes nothing more
            reader.feed(b"x")
    assert not reader.is_whole


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_raise_nothing_but_our_errors(data: bytes, has_head: bool) -> None:
    tree = tree_of(SMALL)
    stream = stream_of(tree, SMALL)[: parts_start(tree.manifest)] if has_head else b""
    reader = FolderReader(tree.manifest.content_id)
    with pytest.raises(TransferError):
        reader.feed(stream + data + b"\0" * 4_096)


def test_cut_and_longer_streams_are_not_the_folder() -> None:
    tree = tree_of(SMALL)
    stream = stream_of(tree, SMALL)
    for end in range(len(stream)):
        reader = FolderReader(tree.manifest.content_id)
        reader.feed(stream[:end])
        assert not reader.is_whole
    with pytest.raises(BadContent, match="more comes"):
        read(stream + b"\0", tree.manifest.content_id)


def test_stream_of_a_file_or_of_another_folder_is_refused() -> None:
    files, other = {"large": LARGE}, tree_of({"large": LARGE, "more": b"x"})
    tree = tree_of(files)
    with pytest.raises(BadManifest):
        read(stream_of(other, files), tree.manifest.content_id)
    manifest = manifest_of(b"shoal")
    as_file = b"shoal folder 1\0\0" + len(manifest.encode()).to_bytes(4, "big") + manifest.encode()
    with pytest.raises(BadManifest, match="a file stands"):
        read(as_file + b"shoal", manifest.content_id)


def test_name_of_a_folder_is_unsafe_for_whoever_knows_no_folders() -> None:
    manifest = tree_of(SMALL).manifest
    offer = PushOffer(b"s" * 16, "photos", manifest)
    assert isinstance(manifest, TreeManifest)
    assert (offer.wire_name, offer.size_bytes) == ("photos/", 10)
    assert PushOffer(b"s" * 16, "photos", manifest_of(b"x")).wire_name == "photos"
    with pytest.raises(UnsafeName, match="path separator"):
        check_name(offer.wire_name)
