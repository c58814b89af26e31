"""Folders that arrive in the inbox: of a stream, of a second try, of a hostile sender."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support.disks import fill, small_disk
from tests.transfer.peers import CHUNK, random_bytes
from tests.transfer.streams import stream_of, tree_of
from tests.transfer.trees import make_folder, picture
from transfer.errors import (
    BadContent,
    DiskFull,
    QuotaFull,
    Refused,
    SourceChanged,
    TargetBusy,
    TransferError,
    UnsafeName,
    UnsafeTree,
)
from transfer.folder_source import FolderSource
from transfer.inbox import ABANDONED_S, InboxFolder, part_name
from transfer.inbox_tree import WHOLE, InboxTree, TreeFacts
from transfer.tree import Entry, EntryKind, Tree
from transfer.tree_walk import HashedTree, hash_tree

QUOTA = 1 << 30
PIECE = 300_000


def folder(tmp_path: Path, quota: int = QUOTA) -> InboxFolder:
    return InboxFolder(tmp_path / "inbox", quota, free_floor_bytes=0)


async def arrival(inbox: InboxFolder, tree: Tree, name: str = "photos") -> InboxTree:
    return await inbox.open_folder(b"k", name, tree.manifest.content_id, 1, size_bytes_max=QUOTA)


async def take(
    file: InboxTree, stream: bytes, *, until: int | None = None, begin: int | None = None
) -> None:
    start = file.committed_bytes if begin is None else begin
    for at in range(start, len(stream) if until is None else until, PIECE):
        await file.write(at, stream[at : min(at + PIECE, until or len(stream))])


async def source_of(tmp_path: Path) -> tuple[Path, HashedTree, bytes]:
    source = make_folder(tmp_path / "source", small=40)
    hashed = await hash_tree(source)
    stream = FolderSource(source, hashed)
    data = stream.read(1 << 30)
    assert (len(data), stream.read(1)) == (stream.size_bytes, b"")
    assert stream.files_done == 44  # all but the empty one
    stream.close()
    return source, hashed, data


async def test_folder_arrives_as_it_was_and_never_replaces_another(tmp_path: Path) -> None:
    source, hashed, stream = await source_of(tmp_path)
    inbox = folder(tmp_path)
    (inbox.folder / "photos").mkdir(parents=True)
    file = await arrival(inbox, hashed.tree)
    await take(file, stream)
    assert file.facts == TreeFacts(hashed.tree.manifest.tree_bytes, 45)
    assert sorted(path.name for path in inbox.folder.iterdir()) == [part_name(b"k"), "photos"]
    placed = await file.place()
    assert picture(placed) == {**picture(source), part_name(b"k"): (b"", False)}
    await file.release()
    await file.close()
    assert picture(inbox.folder / "photos (2)") == picture(source)
    assert sorted(path.name for path in inbox.folder.iterdir()) == ["photos", "photos (2)"]
    files = [path for path in placed.rglob("*") if not path.is_dir()]
    assert (await inbox.usage()).used_bytes == sum(path.lstat().st_size for path in files)


async def test_source_reads_any_span_and_notices_every_change(tmp_path: Path) -> None:
    source, hashed, stream = await source_of(tmp_path)
    reader = FolderSource(source, hashed)
    for offset in (len(stream) - 9, 0, 5, len(stream) // 2, 3 * CHUNK + 11, len(stream)):
        assert reader.read_at(offset, CHUNK) == stream[offset : offset + CHUNK]
    changed = source / "part3" / "3.bin"
    changed.write_bytes(bytes(changed.stat().st_size))
    with pytest.raises(SourceChanged, match=r"part3/3\.bin"):
        reader.read_at(0, len(stream))
    (source / "part0" / "0.bin").unlink()
    with pytest.raises(SourceChanged, match=r"part0/0\.bin"):
        reader.read_at(0, len(stream))
    reader.close()


async def test_broken_off_arrival_goes_on_at_what_verifies(tmp_path: Path) -> None:
    source, hashed, stream = await source_of(tmp_path)
    inbox = folder(tmp_path)
    first = await arrival(inbox, hashed.tree)
    # Broken off in the first large file, which comes before all others but the empty one.
    await take(first, stream, until=2 * CHUNK + 99_000)
    with pytest.raises(TargetBusy):
        await arrival(inbox, hashed.tree)
    await first.close()
    second = await arrival(folder(tmp_path), hashed.tree)
    assert 2 * CHUNK - 1 < second.committed_bytes < 2 * CHUNK + 99_000
    await take(second, stream, begin=CHUNK)  # what is there may come again
    await second.close()
    [large] = (inbox.folder / part_name(b"k") / "tree").glob("large0.bin")
    large.write_bytes(bytes(large.stat().st_size))  # a disk that failed
    third = await arrival(folder(tmp_path), hashed.tree)
    assert third.committed_bytes < CHUNK
    await take(third, stream)
    placed = await third.place()
    await third.release()
    assert picture(placed) == picture(source)


async def test_placed_folder_that_comes_again_is_found_wherever_the_end_fell(
    tmp_path: Path,
) -> None:
    source, hashed, stream = await source_of(tmp_path)
    first = await arrival(folder(tmp_path), hashed.tree)
    await take(first, stream)
    placed = await first.place()
    moved = placed.rename(placed.with_name("renamed by a person"))
    again = await arrival(folder(tmp_path), hashed.tree)
    assert (again.committed_bytes, again.is_whole) == (WHOLE, True)
    assert again.facts == TreeFacts(hashed.tree.manifest.tree_bytes, 45)
    assert await again.place() == moved
    await again.release()
    assert picture(moved) == picture(source)
    assert [path.name for path in (tmp_path / "inbox").iterdir()] == [moved.name]


async def test_finished_letter_that_is_discarded_leaves_no_mark(tmp_path: Path) -> None:
    source, hashed, stream = await source_of(tmp_path)
    inbox = folder(tmp_path)
    first = await arrival(inbox, hashed.tree)
    await take(first, stream)
    placed = await first.place()
    await inbox.discard(b"k")  # journaled, and killed before the release
    await inbox.discard(b"k")
    assert picture(placed) == picture(source)
    assert list(inbox.folder.iterdir()) == [placed]


async def test_listing_says_what_room_is_wanted_before_a_file_is_written(tmp_path: Path) -> None:
    data = random_bytes(600)
    tree = tree_of({f"{number}.bin": data for number in range(10)})
    stream = stream_of(tree, {"0.bin": data})
    needed = 6_000 + tree.manifest.size_bytes
    with pytest.raises(QuotaFull):
        await take(short := await arrival(folder(tmp_path, needed - 1), tree), stream)
    await short.close()
    assert not list((tmp_path / "inbox").glob("*/tree/*"))
    inbox = folder(tmp_path, needed)
    small = await inbox.open_folder(
        b"other", "x", tree.manifest.content_id, 1, size_bytes_max=5_999
    )
    with pytest.raises(Refused, match="larger"):
        await take(small, stream)
    await small.close()
    await inbox.discard(b"other")
    file = await arrival(inbox, tree)
    await take(file, stream)
    assert picture(await file.place()).keys() >= {f"{number}.bin" for number in range(10)}


def hostile(*others: Entry, path: str = "a") -> bytes:
    """The stream of a folder that no honest sender makes: its listing is not checked."""
    entry = Entry(path, EntryKind.FILE, 0, tree_of({"a": b""}).entries[0].content_id)
    return stream_of(_unchecked([entry, *others]), {})


def _unchecked(entries: list[Entry]) -> Tree:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transfer.tree.check_layout", lambda _leaves, _links: None)
        return Tree.of(entries)


LINK, FILE = EntryKind.LINK, EntryKind.FILE
UNSAFE: dict[str, Callable[[], bytes]] = {
    "absolute": lambda: hostile(path="/etc/x"),
    "parent": lambda: hostile(path="../x"),
    "inner parent": lambda: hostile(path="b/../../x"),
    "link out": lambda: hostile(Entry("l", LINK, target="../..")),
    "link to root": lambda: hostile(Entry("l", LINK, target="/")),
    "link by a link": lambda: hostile(
        Entry("b/l", LINK, target=".."), Entry("m", LINK, target="b/l/..")
    ),
    "through a link": lambda: hostile(Entry("a/b", LINK, target="c")),
    "case": lambda: hostile(Entry("A", LINK, target="a")),
    "control": lambda: hostile(path="a\nb"),
    "mark": lambda: hostile(path=part_name(b"x")),
}


@pytest.mark.parametrize("what", UNSAFE)
async def test_unsafe_folder_is_refused_and_nothing_of_it_is_written(
    what: str, tmp_path: Path
) -> None:
    stream = UNSAFE[what]()
    length = int.from_bytes(stream[16:20])
    manifest = stream[20 : 20 + length]
    inbox = folder(tmp_path)
    file = await inbox.open_folder(
        b"k", "photos", blake3(manifest).digest(), 1, size_bytes_max=QUOTA
    )
    with pytest.raises(UnsafeTree):
        await take(file, stream)
    with pytest.raises(TransferError):
        await file.place()
    await file.close()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
    assert {path.name for path in inbox.folder.iterdir()} == {part_name(b"k")}


async def test_unsafe_name_and_cut_streams_become_no_folder(tmp_path: Path) -> None:
    _, hashed, stream = await source_of(tmp_path)
    inbox = folder(tmp_path)
    with pytest.raises(UnsafeName):
        await arrival(inbox, hashed.tree, name="../photos")
    file = await arrival(inbox, hashed.tree)
    await take(file, stream, until=len(stream) - 1)
    with pytest.raises(BadContent, match="incomplete"):
        await file.place()
    with pytest.raises(BadContent, match="verify"):
        await file.write(len(stream) - 1, bytes([stream[-1] ^ 1]))
    await file.close()
    assert not (inbox.folder / "photos").exists()


async def test_full_disk_is_told_and_what_arrived_is_kept(tmp_path: Path) -> None:
    source, hashed, stream = await source_of(tmp_path)
    with small_disk(tmp_path / "disk", 8 * CHUNK) as disk:
        inbox = folder(disk)
        (disk / "filler").write_bytes(bytes(3 * CHUNK))
        first = await arrival(inbox, hashed.tree)
        with pytest.raises(DiskFull):  # by the listing already
            await take(first, stream)
        await first.close()
        (disk / "filler").unlink()
        second = await arrival(inbox, hashed.tree)
        await take(second, stream, until=3 * CHUNK)
        fill(disk)
        with pytest.raises(DiskFull):  # in the middle
            await take(second, stream)
        await second.close()
        for filler in disk.glob("filler*"):
            filler.unlink()
        third = await arrival(folder(disk), hashed.tree)
        assert third.committed_bytes > CHUNK
        await take(third, stream)
        placed = await third.place()
        await third.release()
        assert picture(placed) == picture(source)


async def test_what_a_killed_sender_left_is_swept_when_no_letter_can_bring_it_again(
    tmp_path: Path,
) -> None:
    source, hashed, stream = await source_of(tmp_path)
    inbox = folder(tmp_path)
    first = await arrival(inbox, hashed.tree)
    await take(first, stream)
    placed = await first.place()
    await first.close()
    old, young = inbox.folder / part_name(b"old"), inbox.folder / part_name(b"young")
    for path in (old, young):
        path.write_bytes(b"partial")
    long_ago_s = time.time() - ABANDONED_S - 60
    for path in (old, placed, inbox.folder / part_name(b"k")):
        os.utime(path, (long_ago_s, long_ago_s))
    other = await folder(tmp_path).open(b"other", "other", 1)
    await other.close()
    names = {path.name for path in inbox.folder.iterdir()}
    assert names == {"photos", young.name, part_name(b"other")}
    assert picture(placed) == picture(source)


async def test_cancelled_arrival_lets_go_of_its_lock_and_of_its_room(tmp_path: Path) -> None:
    _, hashed, stream = await source_of(tmp_path)
    inbox = folder(tmp_path)
    opening = asyncio.create_task(arrival(inbox, hashed.tree))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (await inbox.usage()).used_bytes == 0
    file = await arrival(inbox, hashed.tree)
    await take(file, stream)
    await file.place()
    await file.release()
