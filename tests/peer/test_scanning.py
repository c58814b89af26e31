import os
import socket
from pathlib import Path

import pytest

from peer import scanning
from peer.scanning import Scan, Seen, scan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def looked(folder: Path, home: Path = Path("/nowhere"), **bounds: int) -> tuple[list[str], Scan]:
    found = scan(folder, home, **bounds)
    return [os.path.relpath(path, folder) for path in found.files], found


def test_files_of_all_folders_below_are_found_as_they_are(folder: Path) -> None:
    (folder / "b/deep").mkdir(parents=True)
    for name in ("z.txt", "a.txt", "b/deep/ü.txt"):
        (folder / name).write_text(name)
    names, found = looked(folder)
    assert names == ["a.txt", "z.txt", "b/deep/ü.txt"]
    status = (folder / "a.txt").stat()
    assert found.files[str(folder / "a.txt")] == Seen(
        5, status.st_mtime_ns, status.st_ino, status.st_ctime_ns
    )
    assert list(found.folders) == [str(folder), str(folder / "b"), str(folder / "b/deep")]
    assert not found.left_out
    assert not found.is_partial


def test_hidden_and_partial_files_are_none_and_are_not_told_of(folder: Path) -> None:
    (folder / ".git").mkdir()
    for name in (".git/config", ".hidden", ".shoal-0123456789abcdef.part", "seen.txt"):
        (folder / name).write_text("x")
    names, found = looked(folder)
    assert (names, dict(found.left_out)) == (["seen.txt"], {})


def test_links_sockets_and_pipes_are_left_out_and_told_of(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("secret")
    (folder / "file").write_text("x")
    (folder / "inside").symlink_to(folder / "file")
    (folder / "outside").symlink_to(tmp_path / "secret/key")
    (folder / "way-out").symlink_to(tmp_path / "secret")
    (folder / "dangling").symlink_to("nothing")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(folder / "socket"))
        names, found = looked(folder)
    assert names == ["file"]
    assert found.left_out == {scanning.LINKS: 4, scanning.SPECIAL: 2}


def test_folder_named_by_a_link_is_looked_through(folder: Path, tmp_path: Path) -> None:
    (folder / "file").write_text("x")
    (tmp_path / "link").symlink_to(folder)
    names, _ = looked(tmp_path / "link")
    assert names == ["file"]


def test_folder_that_becomes_a_link_while_it_is_looked_at_leads_nowhere(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("secret")
    (folder / "below").mkdir()
    open_file = os.open

    def swapped(path: str, flags: int) -> int:
        if path.endswith("below"):
            (folder / "below").rmdir()
            (folder / "below").symlink_to(tmp_path / "secret")
        return open_file(path, flags)

    monkeypatch.setattr(scanning.os, "open", swapped)
    names, found = looked(folder)
    assert (names, found.is_partial) == ([], False)


def test_home_of_the_peer_is_never_shared_whatever_leads_to_it(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "home").mkdir()
    (folder / "home/identity.key").write_text("key")
    (tmp_path / "link").symlink_to(folder)
    for home in (folder / "home", tmp_path / "link/home"):
        assert looked(folder, home)[0] == []
    assert looked(folder, folder)[0] == []


def test_names_that_are_unsafe_or_no_text_are_left_out(folder: Path) -> None:
    (folder / "nul.txt").write_text("x")
    (folder / "new\nline").write_text("x")
    (folder / os.fsdecode(b"\xff")).write_text("x")
    (folder / os.fsdecode(b"dir\xff")).mkdir()
    (folder / os.fsdecode(b"dir\xff") / "ok.txt").write_text("x")
    (folder / "nul").mkdir()  # only the names of files are told to others
    (folder / "nul/ok.txt").write_text("x")
    names, found = looked(folder)
    assert names == ["nul/ok.txt"]
    assert found.left_out == {scanning.UNSAFE: 4}


def test_of_too_many_files_the_first_by_name_are_taken_each_time(folder: Path) -> None:
    for number in reversed(range(9)):
        (folder / f"{number}").write_text("x")
    (folder / "more").mkdir()
    (folder / "more/file").write_text("x")
    for _ in range(2):
        names, found = looked(folder, files_max=4)
        assert names == ["0", "1", "2", "3"]
        assert found.left_out == {scanning.BEYOND: 6}
        assert not found.is_partial


def test_folders_that_lie_too_deep_are_told_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "DEPTH_MAX", 2)
    (folder / "a/b/c").mkdir(parents=True)
    (folder / "a/b/file").write_text("x")
    (folder / "a/b/c/file").write_text("x")
    names, found = looked(folder)
    assert (names, found.left_out) == (["a/b/file"], {scanning.DEEP: 1})


def test_folder_that_is_gone_is_empty_and_not_partial(folder: Path) -> None:
    folder.rmdir()
    found = scan(folder, Path("/nowhere"))
    assert (found.files, found.folders, found.is_partial) == ({}, {}, False)


@pytest.mark.parametrize(("error", "is_partial"), [(5, True), (116, True), (13, False)])
def test_file_system_that_is_away_makes_a_scan_partial_a_refusal_does_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: int, is_partial: bool
) -> None:
    (folder / "away").mkdir()
    (folder / "file").write_text("x")
    open_file = os.open

    def failing(path: str, flags: int) -> int:
        if path.endswith("away"):
            raise OSError(error, os.strerror(error))
        return open_file(path, flags)

    monkeypatch.setattr(scanning.os, "open", failing)
    names, found = looked(folder)
    assert (names, found.is_partial) == (["file"], is_partial)
    assert found.left_out == {scanning.UNREADABLE: 1}
