"""The listing of a folder: canonical bytes, its own kind of content id, bounds, units."""

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from transfer.errors import BadManifest, TransferError, TreeTooLarge, UnsafeTree
from transfer.manifest import (
    LISTING_BYTES_MAX,
    TREE_ENTRIES_MAX,
    Manifest,
    TreeManifest,
    content_id_of_chunk,
    decode_manifest,
    digest_of,
)
from transfer.tree import (
    EMPTY_CONTENT_ID,
    PACK_BYTES_MAX,
    PACK_FILES_MAX,
    Entry,
    EntryKind,
    Tree,
    decode_tree,
)
from transfer.tree_plan import Pack, Piece, plan_of

FILE, EXECUTABLE, LINK, FOLDER = EntryKind
GOLDEN = (
    Entry("a", FOLDER),
    Entry("bin/run", EXECUTABLE, 5, content_id_of_chunk(b"shoal")),
    Entry("zero", FILE, 0, EMPTY_CONTENT_ID),
    Entry("\u00fc", LINK, target="bin/run"),
)

SIZES = st.integers(0, 3_000_000)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    path = "/".join(draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=3)))
    kind = draw(st.sampled_from(EntryKind))
    if kind is LINK:
        return Entry(path, kind, target=draw(st.sampled_from(["a", "b/c", "x"])))
    if kind is FOLDER:
        return Entry(path, kind)
    size = draw(SIZES)
    return Entry(
        path, kind, size, blake3(str(size).encode()).digest() if size else EMPTY_CONTENT_ID
    )


def tree_or_none(some: list[Entry]) -> Tree | None:
    try:
        return Tree.of(some)
    except UnsafeTree:
        return None


def test_bytes_of_a_listing_are_as_the_protocol_says() -> None:
    tree = Tree.of(reversed(GOLDEN))
    five = blake3(b"shoal").digest()
    run = blake3(bytes.fromhex("73686f616c4601000000000000000500080000") + five).digest()
    zero = blake3(bytes.fromhex("73686f616c4601000000000000000000080000")).digest()
    listing = (
        b"d\0\x01a"
         b"x\0\x07bin/run" + (5).to_bytes(8, "big") + run
        + b"f\0\x04zero" + bytes(8) + zero
        + b"l\0\x02\xc3\xbc" + b"\0\x07bin/run"
    )  # fmt: skip
    assert tree.listing == listing
    root = (
        bytes.fromhex("73686f616c5401")
        + len(listing).to_bytes(8, "big")
        + bytes.fromhex("00080000000000040000000000000005")
        + blake3(listing).digest()
    )
    assert tree.manifest.encode() == root
    assert tree.manifest.content_id == blake3(root).digest()
    assert tree.manifest.content_id.hex() == (
        "1d478a4f7e2e0438bed8fef3ef403d8f17dc471606a9d5034a96fe912d2ab6a3"
    )


def test_folder_and_the_file_that_holds_its_listing_have_different_ids() -> None:
    tree = Tree.of(GOLDEN)
    as_file = Manifest.of(len(tree.listing), [digest_of(tree.listing)])
    assert as_file.content_id != tree.manifest.content_id
    assert decode_manifest(as_file.encode()) == as_file
    found = decode_manifest(tree.manifest.encode(), tree.manifest.content_id)
    assert isinstance(found, TreeManifest)
    assert found == tree.manifest


@given(st.lists(entries(), max_size=8))
def test_whatever_tree_can_be_built_is_read_back_the_same(some: list[Entry]) -> None:
    tree = tree_or_none(some)
    if tree is None:
        return
    assert decode_tree(tree.listing, tree.manifest) == tree
    assert Tree.of(tree.entries) == tree
    assert [e.path.encode() for e in tree.entries] == sorted(e.path.encode() for e in tree.entries)


@given(st.lists(entries(), min_size=1, max_size=4), st.data())
def test_bytes_that_are_read_are_the_canonical_ones(some: list[Entry], data: st.DataObject) -> None:
    tree = tree_or_none(some)
    if tree is None:
        return
    listing = bytearray(tree.listing)
    place = data.draw(st.integers(0, len(listing) - 1))
    listing[place] = data.draw(st.integers(0, 255))
    changed = bytes(listing)
    manifest = TreeManifest(
        len(changed), digest_of(changed), tree.manifest.entry_count, tree.manifest.tree_bytes
    )
    try:
        found = decode_tree(changed, manifest)
    except TransferError:
        return
    assert Tree.of(found.entries).listing == changed


@given(st.binary(max_size=200), st.integers(0, 5), st.integers(0, 1000))
def test_no_bytes_raise_anything_but_our_errors(listing: bytes, count: int, size: int) -> None:
    manifest = TreeManifest(len(listing), digest_of(listing) if listing else b"", count, size)
    try:
        tree = decode_tree(listing, manifest)
    except TransferError:
        return
    assert tree.listing == listing


def manifest_for(
    tree: Tree, *, count: int = 0, size: int = 0, listing: bytes = b""
) -> TreeManifest:
    listing = listing or tree.listing
    return TreeManifest(
        len(listing),
        digest_of(listing),
        tree.manifest.entry_count + count,
        tree.manifest.tree_bytes + size,
    )


def test_listing_that_is_not_what_its_manifest_says_is_refused() -> None:
    tree = Tree.of(GOLDEN)
    for manifest in (manifest_for(tree, count=1), manifest_for(tree, size=1)):
        with pytest.raises(BadManifest):
            decode_tree(tree.listing, manifest)


def test_entries_out_of_order_or_twice_are_refused() -> None:
    one, other = (Tree.of([Entry(name, FOLDER)]).listing for name in "ab")
    for listing in (other + one, one + one):
        with pytest.raises(TransferError):
            decode_tree(listing, TreeManifest(len(listing), digest_of(listing), 2, 0))


def test_a_tree_of_many_entries_is_bounded() -> None:
    many = [Entry(f"{number:06}", FOLDER) for number in range(TREE_ENTRIES_MAX + 1)]
    with pytest.raises(TreeTooLarge):
        Tree.of(many)
    header = bytes.fromhex("73686f616c5401") + LISTING_BYTES_MAX.to_bytes(8, "big")
    chunks = bytes(32 * (LISTING_BYTES_MAX // PACK_BYTES_MAX))
    good = header + bytes.fromhex("00080000") + TREE_ENTRIES_MAX.to_bytes(4, "big") + bytes(8)
    assert decode_manifest(good + chunks).size_bytes == LISTING_BYTES_MAX
    bad = header + bytes.fromhex("00080000") + (TREE_ENTRIES_MAX + 1).to_bytes(4, "big") + bytes(8)
    with pytest.raises(BadManifest):
        decode_manifest(bad + chunks)
    longer = bytes.fromhex("73686f616c5401") + (LISTING_BYTES_MAX + 1).to_bytes(8, "big")
    with pytest.raises(BadManifest):
        decode_manifest(longer + good[15:] + chunks + bytes(32))


# Units


@given(st.lists(SIZES, max_size=40), st.integers(0, 3))
def test_units_cover_each_content_once_and_are_bounded(sizes: list[int], copies: int) -> None:
    some = [
        Entry(f"{copy}/{place:03}", FILE, size, blake3(str(size).encode()).digest())
        for copy in range(copies + 1)
        for place, size in enumerate(sizes)
        if size
    ]
    plan = plan_of(Tree.of(some))
    assert plan.size_bytes == sum({size for size in sizes if size})
    assert sum(unit.size_bytes for unit in plan.units) == plan.size_bytes
    small = [place for unit in plan.units if isinstance(unit, Pack) for place in unit.contents]
    assert len(small) == len(set(small))
    for unit in plan.units:
        match unit:
            case Pack(contents, size_bytes):
                assert 0 < len(contents) <= PACK_FILES_MAX
                assert size_bytes <= PACK_BYTES_MAX
            case Piece(content, _, size_bytes):
                assert not plan.contents[content].is_small
                assert 0 < size_bytes <= PACK_BYTES_MAX


def test_one_content_with_two_sizes_is_refused() -> None:
    content_id = content_id_of_chunk(b"shoal")
    with pytest.raises(BadManifest):
        plan_of(Tree.of([Entry("a", FILE, 5, content_id), Entry("b", FILE, 6, content_id)]))


def test_empty_file_with_a_content_and_content_without_a_size_are_refused() -> None:
    for size, content_id in ((0, content_id_of_chunk(b"shoal")), (5, EMPTY_CONTENT_ID)):
        tree = Tree.of([Entry("a", FILE, size, content_id)])
        with pytest.raises(BadManifest):
            decode_tree(tree.listing, tree.manifest)
