"""What people, disks, clocks and malicious members can get wrong: a clear error, nothing lost."""

import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dht import payloads
from dht.node import DhtNode
from dht.records import ContentPayload, NamePayload, WordPayload
from dht.words import indexed_words
from identity.keys import Identity
from identity.network import parse_network_file
from peer.failures import ExitCode
from tests.support.disks import small_disk
from tests.support.processes import CLI, PeerProcess, joined, peers_in, run_shoal
from tests.support.waiting import until

MIB = 1024 * 1024
HOUR_S = 3600

Peers = list[PeerProcess]


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with joined(tmp_path_factory.mktemp("bad"), "ada", "bob", "carol") as running:
        yield running


@contextlib.asynccontextmanager
async def member(peers: Peers, **options: Any) -> AsyncIterator[DhtNode]:
    """A member of the network in this process, that says what the test wants."""
    file = parse_network_file((peers[0].folder.parent / "network.json").read_bytes())
    node = DhtNode(Identity.generate(), file.network, nickname="mallory", **options)
    await node.listen("127.0.0.1", 0)
    try:
        assert await node.bootstrap(file.bootstrap) > 0
        yield node
    finally:
        await node.close()


def records_of(name: str, word_from: str | None = None) -> list[payloads.Payload]:
    content_id = hashlib.sha256(name.encode()).digest()
    words = [WordPayload(word, name, content_id, 7) for word in indexed_words(word_from or name)]
    return [NamePayload(name, content_id, 7), ContentPayload(content_id), *words]


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "home" not in path.parts}


def fails(done: Any, code: int, *words: str) -> None:
    """One line of error, one of hint at most, nothing on stdout."""
    assert (done.code, done.stdout) == (code, ""), done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("shoal: ")
    assert [line for line in lines[1:] if not line.startswith("hint: ")] == []
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


UNSAFE = ("../x", "/etc/x", "a/b", ".", "..", "a\\b", "con", "NUL.txt", "bell\x07", "", "x" * 256)


def test_unsafe_name_is_never_offered(peers: Peers) -> None:
    ada = peers[0]
    (ada.folder / "honest.txt").write_text("honest")
    for name in UNSAFE:
        fails(ada.run("put", "honest.txt", "--as", name), ExitCode.NOT_PERMITTED, "unsafe")
    (ada.folder / "line\nbreak.txt").write_text("x")
    fails(ada.run("put", "line\nbreak.txt"), ExitCode.NOT_PERMITTED, "control character")
    assert ada.json("shares") == []


async def test_unsafe_name_of_a_malicious_publisher_is_never_written(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = peers[1]
    before = files_in(bob.folder.parent)
    # Mallory's own node checks nothing: what is refused, the others refuse.
    monkeypatch.setattr(payloads, "_check_filename", lambda name: None)
    paths = ["../evil.txt", "/tmp/evil.txt", "evil\x00.txt", "evil\x1b[2J.txt", ".."]
    names = ["evil\\..\\x.txt", "con.txt", "nul"]
    async with member(peers) as mallory:
        for name in paths:
            report = await mallory.publish(records_of(name))
            assert set(report.stored_on) <= {0, 3}
            assert report.stored_on[0] == 0, "nobody stores a path under a name"
        for name in names:
            assert (await mallory.publish(records_of(name))).stored_on_min == 3
        for name in [*names, "../evil.txt", "/tmp/evil.txt", ".."]:
            done = await asyncio.to_thread(bob.run, "get", name, "--timeout", "2")
            wanted = ExitCode.NOT_PERMITTED if name in names else ExitCode.NOT_FOUND
            assert (done.code, done.stdout) == (wanted, ""), done.stderr
        hits = await asyncio.to_thread(bob.json, "search", "evil")
        assert [hit["name"] for hit in hits] == ["evil\\..\\x.txt"]
        drops = (await asyncio.to_thread(bob.json, "status"))[0]["drops"]
        assert drops["store-bad"] >= len(paths)
    assert files_in(bob.folder.parent) == before


def test_what_is_no_file_cannot_be_shared(peers: Peers) -> None:
    ada = peers[0]
    os.mkfifo(ada.folder / "fifo")
    (ada.folder / "dangling").symlink_to("nowhere")
    fails(ada.run("put", "fifo"), ExitCode.USAGE, "neither a regular file nor a folder")
    fails(ada.run("put", "missing.txt"), ExitCode.USAGE, "missing.txt", "does not exist")
    fails(ada.run("put", "dangling"), ExitCode.USAGE, "dangling")
    fails(ada.run("put", "/dev/null"), ExitCode.USAGE)
    fails(ada.run("put", b"\xff\xfe.txt"), ExitCode.USAGE, "UTF-8")
    fails(ada.run("put"), ExitCode.USAGE)
    assert ada.json("shares") == []


def test_unreadable_file_is_exit_2(tmp_path: Path) -> None:
    # Root reads everything, unless it gives that right away.
    plain = tmp_path / "plain.py"
    plain.write_text(
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "[libc.prctl(24, capability, 0, 0, 0) for capability in (1, 2)]\n"
        f"os.execv(sys.executable, [sys.executable, {str(CLI)!r}, *sys.argv[1:]])\n"
    )
    with joined(tmp_path, "ada") as [ada], peers_in(tmp_path, "bob", cli=plain) as [bob]:
        bob.join(network=tmp_path / "network.json")
        (bob.folder / "locked.txt").write_text("locked")
        (bob.folder / "locked.txt").chmod(0)
        fails(bob.run("put", "locked.txt"), ExitCode.USAGE, "locked.txt", "not readable")
        assert bob.json("shares") == []
        (ada.folder / "x.txt").write_text("x")
        ada.json("put", "x.txt")
        (bob.folder / "closed").mkdir(mode=0o500)
        fails(bob.run("get", "x.txt", "-o", "closed"), ExitCode.USAGE, "x.txt")


def test_source_that_vanished_or_changed_is_told_and_offered_no_more(peers: Peers) -> None:
    ada, bob, carol = peers
    for name in ("vanishes.txt", "changes.txt"):
        (ada.folder / name).write_text(f"{name} as it was")
        ada.json("put", name)
    (ada.folder / "vanishes.txt").unlink()
    fails(bob.run("get", "vanishes.txt"), ExitCode.UNVERIFIED, "changed or is gone", "hint: ")
    (ada.folder / "changes.txt").write_text("changes.txt as it is!")
    done = bob.run("get", "changes.txt", "--timeout", "2")
    fails(done, ExitCode.UNVERIFIED, "changed or is gone", "hint: ")
    assert not (bob.folder / "vanishes.txt").exists()
    assert not (bob.folder / "changes.txt").exists()
    ada.poll("shares", until=lambda shares: shares == [])
    carol.poll("search", "vanishes", until=lambda hits: hits == [])
    carol.poll("search", "changes", until=lambda hits: hits == [])
    ada.json("put", "changes.txt")
    assert bob.json("get", "changes.txt")[0]["size"] == 21
    assert (bob.folder / "changes.txt").read_text() == "changes.txt as it is!"
    for peer in (ada, bob):
        peer.json("unshare", "changes.txt")


def test_vanished_copy_is_replaced_by_another_of_the_same_content(peers: Peers) -> None:
    ada, bob, _ = peers
    for name in ("copy-a.txt", "copy-b.txt"):
        (ada.folder / name).write_text("the same in both")
        ada.json("put", name)
    (ada.folder / "copy-a.txt").unlink()
    assert bob.json("get", "copy-a.txt", "--no-share")[0]["size"] == 16
    ada.poll("shares", until=lambda shares: [s["name"] for s in shares] == ["copy-b.txt"])
    ada.json("unshare", "copy-b.txt")


def test_another_content_under_ones_own_name_replaces_it_and_says_so(peers: Peers) -> None:
    ada, bob, _ = peers
    (ada.folder / "version.txt").write_text("one")
    [first] = ada.json("put", "version.txt")
    (ada.folder / "version.txt").write_text("two")
    done = ada.run("--json", "put", "version.txt")
    assert done.code == 0
    assert first["content_id"] in done.stderr
    [hit] = bob.json("search", "version")
    assert hit["content_id"] == done.items[0]["content_id"] != first["content_id"]


def test_full_disk_is_exit_7_and_nothing_is_left_as_the_file(tmp_path: Path) -> None:
    with joined(tmp_path, "bob") as [bob], peers_in(tmp_path, "ada") as [ada]:
        ada.home.mkdir()
        (ada.home / "config.toml").write_text('[transfer]\nupload_bytes_per_s = "2MB"\n')
        ada.join(network=tmp_path / "network.json")
        data = os.urandom(4 * MIB)
        (ada.folder / "big.bin").write_bytes(data)
        ada.json("put", "big.bin")
        with small_disk(bob.folder / "small", 3 * MIB) as disk:
            fails(bob.run("get", "big.bin", "-o", "small"), ExitCode.FULL, "big.bin")
            assert not (disk / "big.bin").exists()
        (bob.folder / "small").rmdir()
        with small_disk(bob.folder / "small", 5 * MIB) as disk:
            getting = subprocess.Popen(
                [
                    sys.executable,
                    str(CLI),
                    "--home",
                    str(bob.home),
                    "get",
                    "big.bin",
                    "-o",
                    "small",
                ],
                cwd=bob.folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            until(lambda: any(path.stat().st_blocks for path in disk.glob(".shoal-*")))
            with (disk / "filler").open("wb") as filler, contextlib.suppress(OSError):
                for _ in range(3 * 16):
                    filler.write(bytes(MIB // 16))
                    filler.flush()
            stdout, stderr = getting.communicate(timeout=20)
            assert (getting.returncode, stdout) == (ExitCode.FULL, b""), stderr
            assert not (disk / "big.bin").exists()
            (disk / "filler").unlink()
            # What came is kept: with room again, only the rest is fetched.
            [result] = bob.json("get", "big.bin", "-o", "small")
            assert (disk / "big.bin").read_bytes() == data
            assert result["fetched_bytes"] < len(data)


@pytest.mark.parametrize("offset_s", [-48 * HOUR_S, -2 * HOUR_S, 2 * HOUR_S, 48 * HOUR_S])
def test_clock_that_is_off_is_noticed_and_files_are_found_all_the_same(
    peers: Peers, tmp_path: Path, offset_s: int
) -> None:
    skewed = tmp_path / "skewed.py"
    skewed.write_text(
        "import runpy, sys, time\n"
        "ns, s = time.time_ns, time.time\n"
        f"time.time_ns = lambda: ns() + {offset_s} * 10**9\n"
        f"time.time = lambda: s() + {offset_s}\n"
        f"sys.path[0] = {str(CLI.parent)!r}\n"
        f"sys.argv[0] = {str(CLI)!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    ada = peers[0]
    with peers_in(tmp_path, "dora", cli=skewed) as [dora]:
        dora.join(network=ada.folder.parent / "network.json")
        name = f"skew{offset_s % 977} file.txt"
        (dora.folder / name).write_text("hello")
        [put] = dora.json("put", name)
        assert put["stored_on"] == 3
        assert [hit["name"] for hit in ada.json("search", name.split()[0])] == [name]
        [result] = ada.json("get", name, "--no-share")
        assert result["size"] == 5
        assert "this machine's clock is" in dora.log
        side = "behind" if offset_s < 0 else "ahead"
        shown = next(line for line in dora.log.splitlines() if "clock is" in line)
        assert side in shown
        assert abs(int(shown.split(" s ")[0].split()[-1]) - abs(offset_s)) < 30


def test_hostile_nickname_is_shown_as_text(tmp_path: Path) -> None:
    nickname = "[/red]\u202e\x1b[31m"
    with joined(tmp_path, "ada") as [ada], peers_in(tmp_path, "eve") as [eve]:
        eve.join("--name", nickname, network=tmp_path / "network.json")
        done = ada.run("peers")
        assert done.code == 0
        [line] = done.stdout.splitlines()
        assert line.startswith(eve.id + "\t[/red]")
        assert "\x1b" not in line
        assert "\u202e" not in line
        assert ada.json("peers")[0]["nickname"] == nickname
        done = ada.run("get", "x", "--from", nickname)
        assert done.code == ExitCode.NOT_FOUND
        assert "\x1b" not in done.stderr
    too_long = tmp_path / "long"
    too_long.mkdir()
    for nickname in ("x" * 65, " "):
        fails(run_shoal(too_long, "join", "--name", nickname), ExitCode.USAGE, "nickname")


def test_settings_that_are_wrong_are_exit_2_and_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text("[transfer]\nuplaod_bytes_per_s = 1\n")
    done = run_shoal(tmp_path, "join", "--listen", "127.0.0.1:0")
    fails(done, ExitCode.USAGE, "uplaod_bytes_per_s", "config.toml")


def test_search_without_a_word_is_exit_2(peers: Peers) -> None:
    fails(peers[0].run("search", "--", "!!!", "- -"), ExitCode.USAGE, "word")
