"""The journal of a partial folder, syncing in batches, and folders without a way out."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer import syncing
from transfer.hashing import Fingerprint
from transfer.safe_folder import FOLDERS_OPEN_MAX, SafeFolder
from transfer.tree_journal import TreeJournal

FINGERPRINTS = st.builds(
    Fingerprint,
    st.integers(0, 1 << 40),
    st.integers(-(1 << 62), 1 << 62),
    st.integers(0, (1 << 64) - 1),
)
FILES = st.dictionaries(st.integers(0, 250_000), FINGERPRINTS, max_size=5)


@given(batches=st.lists(FILES, max_size=4), lost=st.integers(0, 200), flip=st.booleans())
def test_what_is_read_of_a_torn_journal_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[dict[int, Fingerprint]],
    lost: int,
    flip: bool,
) -> None:
    journal = TreeJournal(tmp_path_factory.getbasetemp() / "journal")
    journal.remove()
    for batch in batches:
        journal.add(batch)
    written: dict[int, Fingerprint] = {}
    states = [dict(written)]
    for batch in batches:
        written.update(batch)
        states.append(dict(written))
    assert journal.load() == written
    path = journal._path
    data = bytearray(path.read_bytes() if path.exists() else b"")
    torn = data[: max(0, len(data) - lost)]
    if flip and torn:
        torn[-1] ^= 1
    path.write_bytes(bytes(torn))
    assert journal.load() in states
    journal.begin(written)
    assert journal.load() == written


@pytest.mark.parametrize(("dirty", "count"), [(0, 40), (0, 3), (1 << 40, 40)])
def test_files_are_synced_whatever_else_is_dirty(
    tmp_path: Path, dirty: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "dirty_bytes", lambda: dirty)
    paths = [tmp_path / str(number) for number in range(count)]
    for path in paths:
        path.write_bytes(b"data")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(2) as pool:
            syncing.sync_files(paths, folder, pool)
            paths[-1].unlink()
            if dirty or count < syncing.TOGETHER_MIN:
                with pytest.raises(FileNotFoundError):
                    syncing.sync_files(paths, folder, pool)
    finally:
        os.close(folder)


def test_dirty_bytes_are_read_or_taken_for_many() -> None:
    assert syncing.dirty_bytes() >= 0


def test_no_way_leads_through_a_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    (outside / "sub").mkdir(parents=True)
    (outside / "file").write_bytes(b"precious")
    (root / "way").symlink_to(outside)
    (root / "file").symlink_to(outside / "file")
    folder = SafeFolder(root)
    try:
        assert folder.look("way/file") is None
        assert folder.look("missing/file") is None
        for path in ("way/new", "file", "way/sub/new"):
            with pytest.raises(OSError, match=r"levels of symbolic links|Not a directory"):
                folder.write(path, executable=False, truncate=True)
        with pytest.raises(OSError, match=r"levels of symbolic links"):
            folder.read("file")
    finally:
        folder.close()
    assert (outside / "file").read_bytes() == b"precious"
    assert sorted(path.name for path in outside.iterdir()) == ["file", "sub"]


def test_few_folders_stay_open(tmp_path: Path) -> None:
    folder = SafeFolder(tmp_path)
    try:
        deep = "/".join("d" * 90)
        for number in range(3 * FOLDERS_OPEN_MAX):
            os.close(folder.write(f"{number}/{deep}/x", executable=False, truncate=True))
            assert len(folder._open) <= FOLDERS_OPEN_MAX
            if number > 4:
                deep = "d"
        assert (tmp_path / "0" / "/".join("d" * 90) / "x").is_file()
        descriptor = folder.read("1/" + "/".join("d" * 90) + "/x")
        os.close(descriptor)
    finally:
        folder.close()
