"""Reading a folder: what is taken, what is refused by its name, what changes meanwhile."""

import os
from pathlib import Path

import pytest

from tests.transfer.trees import make_folder, picture
from transfer import tree_walk
from transfer.errors import SourceChanged, SourceUnreadable, UnsafeTree
from transfer.hashing import Fingerprint, hash_file_blocking
from transfer.tree import EntryKind
from transfer.tree_paths import DEPTH_MAX
from transfer.tree_walk import hash_tree


async def test_files_have_the_ids_that_they_have_alone(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "folder", small=20, large=1)
    told: list[tuple[int, int]] = []
    hashed = await hash_tree(root, lambda done, size: told.append((done, size)))
    assert len(hashed.files) == sum(
        path.is_file() and not path.is_symlink() for path in root.rglob("*")
    )
    for file in hashed.files:
        alone = hash_file_blocking(root / file.path)
        assert (file.content_id, file.fingerprint) == (alone.manifest.content_id, alone.fingerprint)
        assert file.manifest == (
            alone.manifest.encode() if alone.manifest.chunk_count > 1 else None
        )
    kinds = {entry.path: entry.kind for entry in hashed.tree.entries}
    assert set(kinds) == set(picture(root))
    assert kinds["run"] is EntryKind.EXECUTABLE
    assert kinds["up"] is EntryKind.LINK
    assert kinds["empty"] is EntryKind.FOLDER
    assert told
    assert told[-1][0] <= told[-1][1] == hashed.tree.manifest.tree_bytes


async def test_the_same_folder_elsewhere_has_the_same_id(tmp_path: Path) -> None:
    one = await hash_tree(make_folder(tmp_path / "one", small=9, large=1))
    other = await hash_tree(make_folder(tmp_path / "other", small=9, large=1))
    assert one.tree == other.tree
    (tmp_path / "other" / "run").chmod(0o644)
    assert (await hash_tree(tmp_path / "other")).tree.manifest != one.tree.manifest


async def test_partial_downloads_are_left_out(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "folder", small=2, large=0)
    before = await hash_tree(root)
    (root / "part0" / ".shoal-0123456789abcdef.part").write_bytes(b"begun")
    (root / ".shoal-0123456789abcdef.part").mkdir()
    assert (await hash_tree(root)).tree == before.tree


async def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).touch()
    with pytest.raises(UnsafeTree, match="not valid Unicode"):
        await hash_tree(tmp_path)


async def test_folders_that_are_too_deep_are_refused(tmp_path: Path) -> None:
    path = tmp_path
    for _ in range(DEPTH_MAX + 2):
        path /= "d"
    path.mkdir(parents=True)
    with pytest.raises(UnsafeTree, match="deep"):
        await hash_tree(tmp_path)


async def test_folder_that_is_gone_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable):
        await hash_tree(tmp_path / "missing")


@pytest.mark.parametrize("size", [10, 2 * 1024 * 1024])
async def test_file_that_changes_after_the_walk_is_named(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "busy.bin"
    path.write_bytes(bytes(size))
    # The walk sees the file as it was; what is hashed is another by then.
    seen = Fingerprint.of(path.stat())
    os.utime(path, ns=(0, seen.mtime_ns + 1))
    found = tree_walk._walk(tmp_path)
    found.files[0] = (found.files[0][0], seen, False)
    monkeypatch.setattr(tree_walk, "_walk", lambda _: found)
    with pytest.raises(SourceChanged, match="busy"):
        await hash_tree(tmp_path)
