"""The inbox folder: quota, floor, names, resume."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transfer.peers import CHUNK, random_bytes
from transfer.errors import BadContent, DiskFull, QuotaFull, TargetBusy, UnsafeName
from transfer.hashing import hash_file_blocking
from transfer.inbox import InboxFolder
from transfer.manifest import Manifest, digest_of
from transfer.names import check_name, numbered


def folder(tmp_path: Path, quota: int = 1 << 30) -> InboxFolder:
    return InboxFolder(tmp_path / "inbox", quota, free_floor_bytes=0)


def manifest_of(data: bytes) -> Manifest:
    return Manifest.of(
        len(data), [digest_of(data[at : at + CHUNK]) for at in range(0, len(data), CHUNK)]
    )


async def test_file_without_a_manifest_is_verified_whole_before_it_is_named(
    tmp_path: Path,
) -> None:
    data = random_bytes(CHUNK + 5)
    inbox = folder(tmp_path)
    bad = await inbox.open(b"k", "name.txt", len(data))
    await bad.write(0, bytes(len(data)))
    with pytest.raises(BadContent):
        await bad.finish(manifest_of(data).content_id)
    assert not (inbox.folder / "name.txt").exists()
    good = await inbox.open(b"k", "name.txt", len(data))
    assert good.committed_bytes == 0
    await good.write(0, data[:7])
    await good.write(7, data[7:])
    path = await good.finish(manifest_of(data).content_id)
    assert path == inbox.folder / "name.txt"
    assert path.read_bytes() == data
    assert list(inbox.folder.iterdir()) == [path]


async def test_incomplete_file_gets_no_name(tmp_path: Path) -> None:
    inbox = folder(tmp_path)
    file = await inbox.open(b"k", "name", 10)
    await file.write(0, b"12345")
    with pytest.raises(BadContent):
        await file.finish()
    await file.close()
    assert not (inbox.folder / "name").exists()


async def test_resumed_file_keeps_only_leading_chunks_that_verify(tmp_path: Path) -> None:
    data = random_bytes(3 * CHUNK)
    manifest, inbox = manifest_of(data), folder(tmp_path)
    first = await inbox.open(b"k", "name", len(data), manifest)
    await first.write(0, data[:CHUNK])
    await first.write(CHUNK, bytes(CHUNK))  # a write that a crash spoiled
    await first.close()
    second = await inbox.open(b"k", "name", len(data), manifest)
    assert second.committed_bytes == CHUNK
    await second.write(CHUNK, data[CHUNK:])
    path = await second.finish()
    assert hash_file_blocking(path).manifest == manifest


async def test_quota_counts_files_and_what_arrivals_were_promised(tmp_path: Path) -> None:
    inbox = folder(tmp_path, quota=100)
    first = await inbox.open(b"1", "a", 60)
    with pytest.raises(QuotaFull):
        await inbox.open(b"2", "b", 41)
    second = await inbox.open(b"2", "b", 40)
    await first.close()
    await second.write(0, bytes(40))
    await second.finish()
    with pytest.raises(QuotaFull):
        await inbox.open(b"3", "c", 61)
    assert (await inbox.usage()).used_bytes == 40
    (inbox.folder / "b").unlink()
    third = await inbox.open(b"3", "c", 100)
    await third.close()


async def test_sender_cannot_write_more_than_it_announced(tmp_path: Path) -> None:
    file = await folder(tmp_path).open(b"k", "name", 3)
    with pytest.raises(QuotaFull):
        await file.write(0, b"1234")
    await file.close()


async def test_floor_of_free_disk_is_kept(tmp_path: Path) -> None:
    inbox = InboxFolder(tmp_path / "inbox", 1 << 60, free_floor_bytes=1 << 60)
    with pytest.raises(DiskFull):
        await inbox.open(b"k", "name", 1)


async def test_one_delivery_arrives_once_at_a_time(tmp_path: Path) -> None:
    inbox = folder(tmp_path)
    first = await inbox.open(b"k", "name", 1)
    with pytest.raises(TargetBusy):
        await inbox.open(b"k", "name", 1)
    await first.close()
    second = await inbox.open(b"k", "name", 1)
    await second.close()
    await inbox.discard(b"k")
    await inbox.discard(b"k")
    assert list(inbox.folder.iterdir()) == []


async def test_unsafe_name_opens_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnsafeName):
        await folder(tmp_path).open(b"k", "../x", 1)
    assert not (tmp_path / "inbox").exists()


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("a.txt", "a (2).txt"),
        ("a", "a (2)"),
        (".hidden", ".hidden (2)"),
        ("a.tar.gz", "a.tar (2).gz"),
        ("x" * 255, "x" * 251 + " (2)"),
    ],
)
def test_second_file_of_a_name_is_numbered(name: str, second: str) -> None:
    assert numbered(name, 2) == second


@given(st.text(min_size=1, max_size=100), st.integers(2, 10_000))
def test_numbered_name_is_as_safe_as_the_name(name: str, attempt: int) -> None:
    try:
        check_name(name)
    except UnsafeName:
        return
    check_name(numbered(name, attempt))


async def test_placed_file_that_comes_again_before_its_release_is_found_again(
    tmp_path: Path,
) -> None:
    data = random_bytes(CHUNK)
    inbox = folder(tmp_path)
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "name").write_bytes(b"another's")
    for manifest in (manifest_of(data), None):
        first = await inbox.open(b"k", "name", len(data), manifest)
        if first.committed_bytes == 0:
            await first.write(0, data)
        placed = await first.place(manifest_of(data).content_id)
        assert placed.name == "name (2)"
        assert len(list(inbox.folder.iterdir())) == 3  # it bears its mark
    again = await folder(tmp_path).open(b"k", "name", len(data))
    assert again.committed_bytes == len(data)
    assert await again.finish(manifest_of(data).content_id) == placed
    assert sorted(path.name for path in inbox.folder.iterdir()) == ["name", "name (2)"]
    assert placed.read_bytes() == data


async def test_released_file_that_comes_again_is_another_file(tmp_path: Path) -> None:
    inbox = folder(tmp_path)
    for name in ("name", "name (2)"):
        file = await inbox.open(b"k", "name", 3)
        await file.write(0, b"abc")
        assert (await file.finish()).name == name


async def test_partial_file_with_a_name_elsewhere_is_not_written_to(tmp_path: Path) -> None:
    inbox = folder(tmp_path)
    file = await inbox.open(b"k", "name", 3)
    await file.write(0, b"abc")
    placed = await file.place()
    taken_out = placed.rename(tmp_path / "taken out")
    again = await inbox.open(b"k", "name", 3)
    assert again.committed_bytes == 0
    await again.write(0, b"xyz")
    await again.finish()
    assert taken_out.read_bytes() == b"abc"
    assert (inbox.folder / "name").read_bytes() == b"xyz"
