"""put, search and get between real peers: private and open networks, any name, any size."""

import hashlib
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from peer.failures import ExitCode
from tests.support.processes import CLI, PeerProcess, environment, joined, run_shoal

CHUNK = 512 * 1024
SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1)
NAMES = (
    "with some spaces.txt",
    "nai\u0308ve cafe\u0301.txt",  # NFD; it is offered as NFC
    "\U0001f433 whale \U0001f468\u200d\U0001f469\u200d\U0001f467.bin",
    "-rf.txt",
    "[red] [bold].txt",
    "evil\u202etxt.exe",
    "me@home.txt",
    "\u732b" * 83 + ".x1234",  # 255 bytes
    ".hidden",
    "quote'and\"double$(id)`.txt",
)

Peers = list[PeerProcess]


def content(size: int, seed: str = "") -> bytes:
    return hashlib.shake_128(f"{size}/{seed}".encode()).digest(size)


def write(peer: PeerProcess, name: str, data: bytes) -> Path:
    path = peer.folder / name
    path.write_bytes(data)
    return path


def fetched(peer: PeerProcess, *arguments: str) -> bytes:
    """What a get that must succeed wrote."""
    [result] = peer.json("get", *arguments)
    return Path(result["path"]).read_bytes()


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with joined(tmp_path_factory.mktemp("private"), "ada", "bob", "carol") as peers:
        yield peers


@pytest.fixture(scope="module")
def open_network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with joined(tmp_path_factory.mktemp("open"), "ada", "bob", "carol", is_open=True) as peers:
        yield peers


@pytest.fixture(params=["private", "open_network"])
def peers(request: pytest.FixtureRequest) -> Peers:
    found: Peers = request.getfixturevalue(request.param)
    return found


def test_when_put_returns_every_other_peer_finds_at_once(peers: Peers) -> None:
    ada, bob, carol = peers
    data = content(100_000)
    write(ada, "Blue Whale (song).ogg", data)
    [put] = ada.json("put", "Blue Whale (song).ogg")
    assert put["stored_on"] == 2
    assert put["content_id"].startswith("b3:")
    assert len(put["content_id"]) == 3 + 64
    for peer in (bob, carol, ada):
        for words in (["whale"], ["SONG", "blue"], ["blue-whale"]):
            [hit] = peer.json("search", *words)
            assert hit == {
                "name": "Blue Whale (song).ogg",
                "size": len(data),
                "content_id": put["content_id"],
                "holders": 1,
            }
        assert peer.json("search", "whale", "orca") == []
        assert peer.json("search", "whal") == []  # words are whole
        [hit] = peer.json("search", "whale", "so*")
        assert hit["name"] == "Blue Whale (song).ogg"
        assert peer.json("search", "whale", "or*") == []
    refused = bob.run("search", "so*")
    assert refused.code == ExitCode.USAGE
    assert "whole word" in refused.stderr
    assert "hint: " in refused.stderr
    assert fetched(bob, "Blue Whale (song).ogg") == data
    [hit] = carol.json("search", "whale")
    assert hit["holders"] == 2, "whoever finished it shares it on"
    assert [share["holders"] for share in bob.json("shares")] == [2]
    [got] = carol.json("get", put["content_id"], "--no-share", "-o", "mine")
    assert Path(got["path"]) == carol.folder / "mine"
    assert (carol.folder / "mine").read_bytes() == data
    assert carol.json("shares") == []


def test_text_of_put_holds_the_line_that_fetches(private: Peers) -> None:
    ada, bob, _ = private
    name = "quote'and $(id) it.txt"
    write(ada, name, b"text")
    done = ada.run("put", name)
    [line] = done.stdout.splitlines()
    shown, size, content_id, stored_on, command = line.split("\t")
    assert (shown, size, stored_on) == (name, "4", "2")
    assert content_id.startswith("b3:")
    assert command.startswith("shoal get ")
    words = shlex.split(command)[1:]
    assert bob.run(*words).code == 0
    assert (bob.folder / name).read_bytes() == b"text"


def test_sizes_around_a_chunk_and_nothing_at_all(private: Peers) -> None:
    ada, bob, _ = private
    names = [f"size-{size}.bin" for size in SIZES]
    for name, size in zip(names, SIZES, strict=True):
        write(ada, name, content(size))
    assert [put["size"] for put in ada.json("put", *names)] == list(SIZES)
    for name, size in zip(names, SIZES, strict=True):
        [result] = bob.json("get", name)
        assert (bob.folder / name).read_bytes() == content(size)
        assert (result["size"], result["fetched_bytes"]) == (size, size)
        assert result["sources"] == (1 if size else 0)
    assert not list(bob.folder.glob(".shoal-*")), "no partial file is left"


def test_any_name_is_put_found_and_fetched_under_itself(private: Peers) -> None:
    ada, bob, _ = private
    for number, name in enumerate(NAMES):
        write(ada, name, content(50, str(number)))
    shown = [unicodedata.normalize("NFC", name) for name in NAMES]
    assert [put["name"] for put in ada.json("put", "--", *NAMES)] == shown
    for number, name in enumerate(NAMES):
        target = bob.folder / unicodedata.normalize("NFC", name)
        [result] = bob.json("get", "--", name)
        assert result["path"] == str(target)
        assert target.read_bytes() == content(50, str(number))
    [hit] = bob.json("search", unicodedata.normalize("NFD", "na\u00efve"))
    assert hit["name"] == unicodedata.normalize("NFC", NAMES[1])


def test_listing_off_a_terminal_escapes_what_would_forge_it(private: Peers) -> None:
    ada, bob, _ = private
    write(ada, "forged\u202e\u2066 [red].txt", b"x")
    ada.json("put", "forged\u202e\u2066 [red].txt")
    done = bob.run("search", "forged")
    [line] = done.stdout.splitlines()
    assert "\u202e" not in line
    assert "\u2066" not in line
    assert "[red].txt" in line
    assert line.count("\t") == 3


def test_get_by_id_prefix_peer_and_name_at_peer(private: Peers) -> None:
    ada, bob, carol = private
    write(ada, "notes.txt", b"of ada")
    write(bob, "notes.txt", b"of bob")
    write(ada, "me@bob", b"a name with an at sign")
    [ada_put] = ada.json("put", "notes.txt")
    [bob_put] = bob.json("put", "notes.txt")
    ada.json("put", "me@bob")
    done = carol.run("get", "notes.txt")
    assert (done.code, done.stdout) == (ExitCode.AMBIGUOUS, "")
    for put in (ada_put, bob_put):
        assert put["content_id"] in done.stderr, "both contents are listed"
    assert not (carol.folder / "notes.txt").exists()
    for number, (arguments, wanted) in enumerate(
        [
            (["notes.txt", "--from", "ada"], b"of ada"),
            (["notes.txt", "--from", bob.id], b"of bob"),
            (["notes.txt", "--from", bob.id[:8]], b"of bob"),
            (["notes.txt@bob"], b"of bob"),
            ([f"notes.txt@{ada.id}"], b"of ada"),
            ([ada_put["content_id"]], b"of ada"),
            ([bob_put["content_id"][:11]], b"of bob"),
            (["me@bob"], b"a name with an at sign"),
        ]
    ):
        name = f"by-{number}"
        assert fetched(carol, *arguments, "-o", name, "--no-share") == wanted, arguments
    for arguments, code in (
        (["notes.txt", "--from", "carol"], ExitCode.NOT_FOUND),
        (["notes.txt", "--from", "nobody"], ExitCode.NOT_FOUND),
        (["notes.txt@nobody"], ExitCode.NOT_FOUND),
        (["b3:" + "0" * 64], ExitCode.NOT_FOUND),
        (["b3:00000000"], ExitCode.NOT_FOUND),
        (["b3:short"], ExitCode.USAGE),
        (["no such name"], ExitCode.NOT_FOUND),
    ):
        done = carol.run("get", *arguments)
        assert (done.code, done.stdout) == (code, ""), (arguments, done.stderr)
        assert "hint: " in done.stderr
    for peer in (ada, bob):
        peer.json("unshare", "notes.txt")


def test_put_under_another_name_and_several_files_at_once(private: Peers) -> None:
    ada, bob, _ = private
    path = write(ada, "draft-7.txt", b"final")
    assert ada.json("put", str(path), "--as", "Report 2026.txt")[0]["name"] == "Report 2026.txt"
    assert bob.json("search", "draft") == []
    assert fetched(bob, "Report 2026.txt") == b"final"
    assert ada.run("put", "draft-7.txt", "notes.txt", "--as", "x").code == ExitCode.USAGE


def test_targets_folder_file_stdout_and_what_is_there_already(private: Peers) -> None:
    ada, bob, _ = private
    data = content(CHUNK + 10, "target")
    write(ada, "target.bin", data)
    ada.json("put", "target.bin")
    (bob.folder / "sub").mkdir()
    assert bob.json("get", "target.bin", "-o", "sub")[0]["path"] == str(
        bob.folder / "sub" / "target.bin"
    )
    assert (bob.folder / "sub" / "target.bin").read_bytes() == data
    (bob.folder / "target.bin").write_bytes(b"mine")
    for arguments in (["target.bin"], ["target.bin", "-o", "target.bin"]):
        done = bob.run("get", *arguments)
        assert (done.code, done.stdout) == (ExitCode.USAGE, "")
        assert (bob.folder / "target.bin").read_bytes() == b"mine"
    assert fetched(bob, "target.bin", "--overwrite") == data
    piped = subprocess.run(
        [sys.executable, str(CLI), "get", "target.bin", "-o", "-"],
        cwd=bob.folder,
        env=environment(bob.folder),
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert piped.stdout == data, "stdout holds the content and nothing else"
    done = bob.run("get", "target.bin", "-o", "no/such/folder/x")
    assert (done.code, done.stdout) == (ExitCode.USAGE, "")


def test_search_and_get_without_a_running_peer(peers: Peers, tmp_path: Path) -> None:
    ada, bob, _ = peers
    write(ada, "for passers-by.txt", b"hello, whoever you are")
    [put] = ada.json("put", "for passers-by.txt")
    known = {p["id"] for p in bob.json("peers")}
    network = ada.folder.parent / "network.json"
    done = run_shoal(tmp_path, "--json", "search", "passers", "--network", str(network))
    assert [hit["content_id"] for hit in done.items] == [put["content_id"]]
    done = run_shoal(tmp_path, "get", "for passers-by.txt", "--network", str(network))
    assert (done.code, done.stderr) == (0, "")
    assert (tmp_path / "for passers-by.txt").read_bytes() == b"hello, whoever you are"
    # A client of the moment shares nothing on and is nobody's contact.
    assert bob.json("search", "passers")[0]["holders"] == 1
    assert {p["id"] for p in bob.json("peers")} == known
    done = run_shoal(tmp_path, "search", "nothing-like-it", "--network", str(network))
    assert (done.code, done.stdout) == (0, "")


def test_peer_that_is_not_running_is_looked_for_in_its_remembered_network(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob") as [ada, bob]:
        write(ada, "remembered.txt", b"yes")
        ada.json("put", "remembered.txt")
        assert bob.terminate() == 0
        assert [hit["name"] for hit in bob.json("search", "remembered")] == ["remembered.txt"]
        assert fetched(bob, "remembered.txt") == b"yes"
        for command in (["put", "remembered.txt"], ["peers"], ["shares"], ["invite"], ["status"]):
            done = bob.run(*command)
            assert (done.code, done.stdout) == (ExitCode.NO_PEER, ""), command
            assert "hint: " in done.stderr


def test_peer_alone_keeps_its_own_files_findable(tmp_path: Path) -> None:
    with joined(tmp_path, "ada") as [ada]:
        write(ada, "alone.txt", b"all by myself")
        done = ada.run("--json", "put", "alone.txt")
        assert (done.code, done.items[0]["stored_on"]) == (0, 0)
        assert "no other peer" in done.stderr
        assert [hit["name"] for hit in ada.json("search", "alone")] == ["alone.txt"]
        assert fetched(ada, "alone.txt", "-o", "copy.txt") == b"all by myself"
        assert ada.json("peers") == []


def test_peers_that_fetch_at_once_all_get_it(private: Peers) -> None:
    ada, bob, carol = private
    data = content(8 * CHUNK + 3, "crowd")
    write(ada, "crowd.bin", data)
    ada.json("put", "crowd.bin")
    gets = [(peer, f"crowd-{n}.bin") for peer in (bob, carol) for n in range(3)]
    with ThreadPoolExecutor(len(gets)) as pool:
        results = list(
            pool.map(lambda get: fetched(get[0], "crowd.bin", "-o", get[1]) == data, gets)
        )
    assert results == [True] * len(gets)
