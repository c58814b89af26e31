"""Downloads of folders over real mutual TLS: whole, resumed, updated, from liars, from readers."""

import asyncio
import dataclasses
import os
import random
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from tests.transfer.peers import CHUNK, poll, running_peer
from tests.transfer.trees import (
    download_of,
    get_folder,
    make_folder,
    picture,
    serve_tree,
    share_folder,
)
from transfer.download import Download
from transfer.errors import (
    BadContent,
    BadManifest,
    IsFolder,
    NoHolders,
    SourceChanged,
    TargetExists,
    UnsafeTree,
)
from transfer.hashing import Fingerprint
from transfer.manifest import TreeManifest, content_id_of_chunk, digest_of
from transfer.partial import part_path_for
from transfer.service import ServiceConfig
from transfer.tree import Entry, EntryKind, Tree, _encode
from transfer.tree_walk import hash_tree

ROOT = Path(__file__).resolve().parents[2]
FILE, EXECUTABLE, LINK, FOLDER = EntryKind


def forged(*entries: Entry) -> Tree:
    """A listing that breaks the rules, with a manifest that is right for it."""
    listing = b"".join(_encode(entry) for entry in entries)
    size = sum(entry.size_bytes for entry in entries)
    manifest = TreeManifest(len(listing), digest_of(listing), len(entries), size)
    return Tree(manifest, entries, listing)


async def test_folder_comes_from_two_holders_and_each_content_once(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", small=400, large=3)
    limited = ServiceConfig(upload_bytes_per_s=4_000_000)
    async with (
        running_peer(config=limited) as one,
        running_peer(config=limited) as other,
        running_peer() as reader,
    ):
        hashed = await share_folder(one, source, tmp_path)
        await share_folder(other, source, tmp_path)
        target = tmp_path / "copy"
        tree_id = hashed.tree.manifest.content_id
        result = await get_folder(reader, tree_id, target, [one.holder, other.holder])
    assert picture(target) == picture(source)
    assert result.sources == 2
    twin = (source / "twin").stat().st_size
    assert result.size_bytes == hashed.tree.manifest.tree_bytes
    assert sum(result.by_holder.values()) == result.size_bytes - twin
    assert result.tree is not None
    assert sorted(f.path for f in result.tree.files) == sorted(f.path for f in hashed.files)
    again = await hash_tree(target)
    assert again == result.tree
    assert not part_path_for(target, tree_id).exists()


async def test_download_of_a_file_says_when_it_is_a_folder(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", small=1, large=0)
    async with running_peer() as holder, running_peer() as reader:
        hashed = await share_folder(holder, source, tmp_path)
        tree_id = hashed.tree.manifest.content_id
        options = {"holders": _each(holder.holder), "connect": reader.pool.connect}
        with pytest.raises(IsFolder) as found:
            await Download(tree_id, tmp_path / "copy", **options).run()
    assert found.value.manifest == hashed.tree.manifest
    assert not list(tmp_path.glob(".shoal-*"))


async def _each(holder):
    yield holder


async def test_only_changed_files_come_when_an_existing_folder_is_updated(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source")
    async with running_peer() as holder, running_peer() as reader:
        hashed = await share_folder(holder, source, tmp_path)
        target = tmp_path / "copy"
        await get_folder(reader, hashed.tree.manifest.content_id, target, [holder.holder])
        kept = Fingerprint.of((target / "part1" / "1.bin").stat())

        (source / "part0" / "0.bin").write_bytes(b"another content")
        (source / "run").chmod(0o644)
        (source / "part0" / "link").unlink()
        (source / "part0" / "link").symlink_to("0.bin")
        (source / "part2" / "2.bin").unlink()
        (target / "own").write_bytes(b"mine")
        as_long = (target / "part3" / "3.bin").stat().st_size
        (target / "part3" / "3.bin").write_bytes(bytes(as_long))
        hashed = await share_folder(holder, source, tmp_path)
        tree_id = hashed.tree.manifest.content_id
        before = picture(target)
        with pytest.raises(TargetExists):
            await get_folder(reader, tree_id, target, [holder.holder])
        assert picture(target) == before
        result = await get_folder(reader, tree_id, target, [holder.holder], overwrite=True)
        again = await get_folder(reader, tree_id, target, [holder.holder], overwrite=True)
    assert result.fetched_bytes == len(b"another content") + as_long
    assert again.fetched_bytes == 0
    stays = {name: before[name] for name in ("own", "part2/2.bin")}
    assert picture(target) == {**picture(source), **stays}
    assert Fingerprint.of((target / "part1" / "1.bin").stat()) == kept


async def test_update_writes_through_no_link_and_keeps_what_would_be_lost(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0.bin").write_bytes(b"precious")
    target = tmp_path / "copy"
    target.mkdir()
    (target / "part0").symlink_to(outside)
    (target / "part1").write_bytes(b"a file where a folder is to be")
    (target / "run").symlink_to(outside / "0.bin")
    async with running_peer() as holder, running_peer() as reader:
        hashed = await share_folder(holder, source, tmp_path)
        tree_id = hashed.tree.manifest.content_id
        await get_folder(reader, tree_id, target, [holder.holder], overwrite=True)
        assert picture(target) == picture(source)
        assert picture(outside) == {"0.bin": (b"precious", False)}

        (target / "run").unlink()
        (target / "run").mkdir()
        (target / "run" / "precious").touch()
        with pytest.raises(TargetExists, match="run"):
            await get_folder(reader, tree_id, target, [holder.holder], overwrite=True)
    assert (target / "run" / "precious").exists()


@pytest.mark.parametrize(
    "entries",
    [
        [Entry("../escaped", FILE, 5, content_id_of_chunk(b"shoal"))],
        [Entry("/tmp/escaped", FILE, 5, content_id_of_chunk(b"shoal"))],
        [Entry("l", LINK, target="/tmp"), Entry("l/escaped", FOLDER)],
        [Entry("l", LINK, target="..")],
        [Entry("a/up", LINK, target=".."), Entry("l", LINK, target="a/up/../escaped")],
        [Entry("A", FOLDER), Entry("a", FOLDER)],
        [Entry("a\0b", FOLDER)],
        [Entry("con", FOLDER)],
    ],
)
async def test_hostile_folder_is_refused_before_anything_is_made(
    tmp_path: Path, entries: list[Entry]
) -> None:
    tree = forged(*entries)
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    async with running_peer() as liar, running_peer() as reader:
        serve_tree(liar, tree, tmp_path)
        with pytest.raises(UnsafeTree):
            await get_folder(reader, tree.manifest.content_id, folder / "copy", [liar.holder])
    assert not (folder / "copy").exists()
    [part] = folder.iterdir()
    assert sorted(path.name for path in part.iterdir()) == ["listing", "manifests", "tree"]
    assert not list((part / "tree").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["deep"]


async def test_folder_that_gives_one_content_two_sizes_is_refused(tmp_path: Path) -> None:
    content_id = content_id_of_chunk(b"shoal")
    tree = forged(Entry("a", FILE, 5, content_id), Entry("b", FILE, 6, content_id))
    async with running_peer() as liar, running_peer() as reader:
        serve_tree(liar, tree, tmp_path)
        with pytest.raises(BadManifest):
            await get_folder(reader, tree.manifest.content_id, tmp_path / "copy", [liar.holder])


async def test_liar_is_dropped_and_the_rest_comes_from_the_honest_holder(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source")
    false = make_folder(tmp_path / "false", seed=2)
    async with running_peer() as liar, running_peer() as honest, running_peer() as reader:
        hashed = await share_folder(honest, source, tmp_path)
        serve_tree(liar, hashed.tree, tmp_path)
        for content_id, true in honest.shares.packs.items():
            path = false / true.path.relative_to(source)
            # As long as the right file, so that only its bytes are wrong.
            path.write_bytes(bytes(true.fingerprint.size_bytes))
            status = path.stat()
            lie = dataclasses.replace(
                true.fingerprint, mtime_ns=status.st_mtime_ns, inode=status.st_ino
            )
            liar.shares.packs[content_id] = dataclasses.replace(true, path=path, fingerprint=lie)
        liar.shares.sources.update((key, value) for key, value in honest.shares.sources.items())
        named: list[bytes] = []
        target = tmp_path / "copy"
        tree_id = hashed.tree.manifest.content_id
        with pytest.raises(BadContent):
            await get_folder(reader, tree_id, target, [liar.holder], on_bad_holder=named.append)
        both = [liar.holder, honest.holder]
        await get_folder(reader, tree_id, target, both, on_bad_holder=named.append)
    assert picture(target) == picture(source)
    assert named
    assert set(named) == {liar.peer_id}


async def test_changed_file_is_named_and_the_rest_is_kept_for_the_next_get(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", small=300)
    async with running_peer() as holder, running_peer() as reader:
        hashed = await share_folder(holder, source, tmp_path)
        tree_id = hashed.tree.manifest.content_id
        (source / "part3" / "3.bin").write_bytes(b"changed")
        target = tmp_path / "copy"
        with pytest.raises(SourceChanged, match=r"part3/3\.bin"):
            await get_folder(reader, tree_id, target, [holder.holder])
        assert not target.exists()
        assert holder.shares.changed
        (source / "large0.bin").unlink()
        with pytest.raises(SourceChanged):
            await get_folder(reader, tree_id, target, [holder.holder])


async def test_reader_serves_what_it_has_of_a_folder_while_it_fetches(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", small=300, large=2)
    slow = ServiceConfig(upload_bytes_per_s=3_000_000)
    async with running_peer(config=slow) as seed, running_peer() as first, running_peer() as second:
        hashed = await share_folder(seed, source, tmp_path)
        tree_id = hashed.tree.manifest.content_id
        download = download_of(first, tree_id, tmp_path / "first", [seed.holder])
        offers = first.shares
        offers.sources[tree_id] = download.source
        for file in hashed.files:
            content_id = file.content_id
            offers.sources[content_id] = lambda content_id=content_id: download.inner_source(
                content_id
            )
        offers.pack_source = download.inner_pack_source
        fetching = asyncio.create_task(download.run())
        assert await poll(lambda: download.source() is not None)
        holders = [first.holder, seed.holder]
        result = await get_folder(second, tree_id, tmp_path / "second", holders)
        await fetching
    assert picture(tmp_path / "first") == picture(tmp_path / "second") == picture(source)
    assert result.by_holder[first.peer_id] > 0


async def test_no_holder_of_the_listing_is_no_holder(tmp_path: Path) -> None:
    async with running_peer() as empty, running_peer() as reader:
        with pytest.raises(NoHolders):
            await get_folder(reader, blake3(b"?").digest(), tmp_path / "copy", [empty.holder])


@pytest.mark.parametrize("seed", range(2))
async def test_get_that_is_killed_at_any_moment_is_resumed_and_fetches_the_rest(
    tmp_path: Path, seed: int
) -> None:
    source = make_folder(tmp_path / "source", small=600, large=4, seed=seed)
    target = tmp_path / "copy"
    slow = ServiceConfig(upload_bytes_per_s=6_000_000)
    async with running_peer(config=slow) as holder, running_peer() as reader:
        hashed = await share_folder(holder, source, tmp_path)
        tree_id = hashed.tree.manifest.content_id
        size = hashed.tree.manifest.tree_bytes
        part = part_path_for(target, tree_id)
        stop_at = random.Random(seed).uniform(0.1, 0.9) * size
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.transfer.get_folder_process"),
            *(holder.peer_id.hex(), str(holder.address.port), tree_id.hex(), str(target)),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        try:
            assert await poll(lambda: _blocks(part / "tree") >= stop_at, 60.0)
        finally:
            process.kill()
            await process.wait()
        assert not target.exists()
        had = _blocks(part / "tree")
        result = await get_folder(reader, tree_id, target, [holder.holder])
    assert picture(target) == picture(source)
    # What was in flight or not whole: a window of units and their write.
    assert result.fetched_bytes <= size - had + 12 * CHUNK
    assert result.fetched_bytes < size
    assert not part.exists()


def _blocks(folder: Path) -> int:
    """Bytes that lie in the files of a folder which somebody is writing."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            status = (Path(path) / name).stat()
            total += min(status.st_size, status.st_blocks * 512)
    return total
