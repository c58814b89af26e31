"""Folders between two real peers: what arrives, what is refused, what is fetched again."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.failures import ExitCode
from tests.support.deliveries import inbox_files
from tests.support.processes import PeerProcess, joined
from tests.transfer.trees import picture

Peers = list[PeerProcess]
FILES = 300
CHUNK = 512 * 1024


def content(size: int, seed: object) -> bytes:
    return hashlib.shake_128(f"{size}/{seed}".encode()).digest(size)


def make_folder(root: Path) -> Path:
    """300 small files in folders, a large one, and one of each other kind."""
    for number in range(FILES):
        path = root / f"part {number % 7}" / f"{number:03}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(40 * number, f"{root.name}/{number}"))
    for name in ("large.bin", "twin.bin"):
        (root / name).write_bytes(content(3 * CHUNK + 17, root.name))
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "empty").mkdir()
    (root / "part 0" / "link").symlink_to("../part 1/001.bin")
    (root / "part 0" / "folder link").symlink_to("../empty")
    return root


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with joined(tmp_path_factory.mktemp("folders"), "ada", "bob") as both:
        yield both


def put(peer: PeerProcess, name: str) -> dict[str, object]:
    [result] = peer.json("put", name)
    return result


def test_folder_arrives_whole_and_is_one_share(peers: Peers) -> None:
    ada, bob = peers
    source = make_folder(ada.folder / "whole")
    shared = put(ada, "whole")
    size = sum(path.stat().st_size for path in source.rglob("*.*") if not path.is_symlink())
    assert (shared["name"], shared["size"], shared["stored_on"]) == ("whole", size, 1)

    [got] = bob.json("get", "whole")
    assert picture(bob.folder / "whole") == picture(source)
    assert got["content_id"] == shared["content_id"]
    assert (got["path"], got["size"]) == (str(bob.folder / "whole"), size)
    # The large file is there twice and came once.
    assert got["fetched_bytes"] == size - (3 * CHUNK + 17)
    assert not list(bob.folder.glob(".shoal-*"))
    for peer in peers:
        [share] = [each for each in peer.json("shares") if each["name"] == "whole"]
        assert share == {**share, "size": size, "content_id": shared["content_id"], "holders": 2}
    assert [found["name"] for found in bob.json("search", "whole")] == ["whole"]


def test_existing_target_is_left_alone_and_updated_with_overwrite(peers: Peers) -> None:
    ada, bob = peers
    source = make_folder(ada.folder / "updated")
    put(ada, "updated")
    target = bob.folder / "updated"
    bob.json("get", "updated", "--no-share")
    before = picture(target)
    refused = bob.run("get", "updated")
    assert (refused.code, picture(target)) == (ExitCode.USAGE, before)

    (source / "part 1" / "001.bin").write_bytes(b"anew")
    (source / "part 2" / "new").write_bytes(b"and more")
    (target / "mine").write_bytes(b"not in the tree")
    put(ada, "updated")
    [got] = bob.json("get", "updated", "--overwrite")
    assert got["fetched_bytes"] == len(b"anew") + len(b"and more")
    assert picture(target) == {**picture(source), "mine": (b"not in the tree", False)}


def test_changed_inner_file_is_not_served_under_its_old_id(peers: Peers) -> None:
    ada, bob = peers
    source = make_folder(ada.folder / "changing")
    put(ada, "changing")
    (source / "part 3" / "003.bin").write_bytes(b"something else")
    got = bob.run("get", "changing")
    assert got.code == ExitCode.UNVERIFIED
    assert "003.bin" in got.stderr
    assert not (bob.folder / "changing").exists()
    ada.poll("shares", until=lambda shares: all(each["name"] != "changing" for each in shares))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("absolute", "leads out"),
        ("parent", "leads out"),
        ("case", "only in case"),
        ("pipe", "pipe"),
    ],
)
def test_what_cannot_be_shared_is_refused_by_its_name(peers: Peers, what: str, says: str) -> None:
    ada = peers[0]
    root = ada.folder / f"bad {what}"
    (root / "sub").mkdir(parents=True)
    match what:
        case "absolute":
            (root / "sub" / "absolute").symlink_to("/etc/passwd")
        case "parent":
            (root / "sub" / "parent").symlink_to("../../other")
        case "case":
            (root / "sub" / "case").touch()
            (root / "sub" / "CASE").touch()
        case "pipe":
            os.mkfifo(root / "sub" / "pipe")
    refused = ada.run("put", root.name)
    assert refused.code == ExitCode.NOT_PERMITTED
    assert says in refused.stderr
    assert f"sub/{what}" in refused.stderr


def test_folder_is_delivered_to_a_peer_that_is_there(peers: Peers) -> None:
    ada, bob = peers
    source = make_folder(ada.folder / "letter")
    [sent] = ada.json("put", "letter", "--to", "bob")
    size = sum(path.stat().st_size for path in source.rglob("*.*") if not path.is_symlink())
    assert (sent["name"], sent["state"]) == ("letter", "delivered")
    assert (sent["size"], sent["files"]) == (size, FILES + 3)
    [line] = [each for each in bob.json("inbox") if each["delivery_id"] == sent["delivery_id"]]
    assert line == {
        **line, "name": "letter", "from": ada.id, "size": size, "files": FILES + 3,
        "path": str(bob.home / "inbox" / "letter"), "state": "received",
    }  # fmt: skip
    assert picture(bob.home / "inbox" / "letter") == picture(source)
    [again] = ada.json("put", "letter", "--to", "bob", "--as", "renamed", "--wait")
    assert (again["name"], again["state"]) == ("renamed", "delivered")
    assert inbox_files(bob) == ["letter", "renamed"]
    # It is nobody's share, and no search finds it.
    assert all(each["name"] != "letter" for each in ada.json("shares"))
    assert bob.run("get", "letter").code == ExitCode.NOT_FOUND


@pytest.mark.parametrize("is_there", [True, False])
def test_unsafe_folder_is_sent_to_nobody(peers: Peers, *, is_there: bool) -> None:
    ada, bob = peers
    root = ada.folder / "unsafe letter"
    root.mkdir(exist_ok=True)
    (root / "out").unlink(missing_ok=True)
    (root / "out").symlink_to("../..")
    before = (ada.json("outbox"), inbox_files(bob))
    via = () if is_there else ("--via", "mailbox")
    refused = ada.run("put", root.name, "--to", "bob", *via)
    assert refused.code == ExitCode.NOT_PERMITTED
    assert "leads out" in refused.stderr
    assert (ada.json("outbox"), inbox_files(bob)) == before


def test_stdout_takes_no_folder_and_output_may_name_one(peers: Peers) -> None:
    ada, bob = peers
    source = make_folder(ada.folder / "placed")
    put(ada, "placed")
    refused = bob.run("get", "placed", "-o", "-")
    assert (refused.code, refused.stdout) == (ExitCode.USAGE, "")
    assert "folder" in refused.stderr
    (bob.folder / "into").mkdir()
    bob.json("get", "placed", "-o", "into", "--no-share")
    bob.json("get", "placed", "-o", "elsewhere", "--no-share")
    for target in ("into/placed", "elsewhere"):
        assert picture(bob.folder / target) == picture(source)
    # The last holder's unshare takes all of it away.
    assert ada.run("unshare", "placed").code == 0
    assert bob.run("get", "placed", "-o", "third").code == ExitCode.NOT_FOUND


def test_shared_folder_survives_a_restart(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob") as (ada, bob):
        source = make_folder(ada.folder / "kept")
        put(ada, "kept")
        ada.terminate()
        ada.start()
        ada.wait_ready()
        bob.poll("search", "kept", until=bool)
        bob.json("get", "kept")
        assert picture(bob.folder / "kept") == picture(source)
