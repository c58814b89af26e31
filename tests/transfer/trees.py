"""Folders for transfer tests: trees on the disk, peers that share them, what a folder holds."""

import dataclasses
import random
import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.transfer.peers import CHUNK, QUICK, TestPeer
from transfer.candidates import Holder
from transfer.download import DownloadResult
from transfer.manifest import decode_manifest
from transfer.sources import PackSource, Source
from transfer.tree import Tree
from transfer.tree_download import TreeDownload
from transfer.tree_walk import HashedTree, hash_tree

# On a busy machine an answer may take seconds; holders that are gone end a download at once.
PATIENT = dataclasses.replace(QUICK, no_holder_timeout_s=20.0)


class Holders:
    """A search that finds the same holders each time that it is asked."""

    def __init__(self, holders: Sequence[Holder]) -> None:
        self._holders = holders

    async def __aiter__(self) -> AsyncIterator[Holder]:
        for holder in self._holders:
            yield holder


def make_folder(root: Path, *, small: int = 200, large: int = 2, seed: int = 1) -> Path:
    """Small files in folders, large ones, an executable, a twin, links and an empty folder."""
    source = random.Random(seed)
    for number in range(small):
        path = root / f"part{number % 5}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(source.randrange(6_000)))
    for number in range(large):
        (root / f"large{number}.bin").write_bytes(source.randbytes(3 * CHUNK + number + 5))
    (root / "twin").write_bytes((root / "part0" / "0.bin").read_bytes())
    (root / "run").write_bytes(b"#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / "zero").touch()
    (root / "empty").mkdir()
    (root / "part0" / "link").symlink_to("../part1/1.bin")
    (root / "up").symlink_to("part0")
    return root


def picture(root: Path) -> Mapping[str, object]:
    """All that a folder holds: bytes and executable bits, links, empty folders."""
    seen: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            seen[name] = path.readlink()
        elif path.is_file():
            seen[name] = path.read_bytes(), bool(path.stat().st_mode & stat.S_IXUSR)
        elif not any(path.iterdir()):
            seen[name] = "empty"
    return seen


async def share_folder(peer: TestPeer, root: Path, scratch: Path) -> HashedTree:
    """Let a peer serve a folder as it is."""
    hashed = await hash_tree(root)
    serve_tree(peer, hashed.tree, scratch)
    for file in hashed.files:
        path = root / file.path
        if file.manifest is None:
            peer.shares.packs[file.content_id] = PackSource(
                path, file.content_id, file.fingerprint, is_shared=True
            )
        else:
            source = Source(path, decode_manifest(file.manifest), file.fingerprint)
            peer.shares.sources[file.content_id] = lambda source=source: source
    return hashed


def serve_tree(peer: TestPeer, tree: Tree, scratch: Path) -> None:
    """Let a peer serve a listing, whatever it says."""
    listing = scratch / f"{peer.peer_id.hex()}-{tree.manifest.content_id.hex()}"
    listing.write_bytes(tree.listing)
    source = Source(listing, tree.manifest, None)
    peer.shares.sources[tree.manifest.content_id] = lambda: source


def download_of(
    reader: TestPeer, tree_id: bytes, target: Path, holders: Sequence[Holder], **options: Any
) -> TreeDownload:
    options.setdefault("config", PATIENT)
    return TreeDownload(
        tree_id, target, holders=Holders(holders), connect=reader.pool.connect, **options
    )


async def get_folder(
    reader: TestPeer, tree_id: bytes, target: Path, holders: Sequence[Holder], **options: Any
) -> DownloadResult:
    """Fetch a folder from these holders."""
    return await download_of(reader, tree_id, target, holders, **options).run()
