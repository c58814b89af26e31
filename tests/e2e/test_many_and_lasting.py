"""Several holders, kills in the middle, restarts, rejoining without bootstrap nodes, presence."""

import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.failures import ExitCode
from tests.support.processes import (
    CLI,
    PeerProcess,
    environment,
    joined,
    peers_in,
    private_network,
    seed_of,
)
from tests.support.waiting import until

MIB = 1024 * 1024

Peers = list[PeerProcess]


def content(size: int, seed: str) -> bytes:
    return hashlib.shake_128(seed.encode()).digest(size)


def throttle(peer: PeerProcess, bytes_per_s: int) -> None:
    peer.home.mkdir(exist_ok=True)
    settings = f"[transfer]\nupload_bytes_per_s = {bytes_per_s}\n"
    (peer.home / "config.toml").write_text(settings)


def put(peer: PeerProcess, name: str, data: bytes) -> str:
    (peer.folder / name).write_bytes(data)
    [result] = peer.json("put", name)
    content_id: str = result["content_id"]
    return content_id


def begin_get(peer: PeerProcess, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, str(CLI), "--json", "get", *arguments],
        cwd=peer.folder,
        env=environment(peer.folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def bytes_on_disk(folder: Path) -> int:
    """How much of an unfinished download is there: blocks, since the file is sparse."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob(".shoal-*.part"))


def saved_contacts(peer: PeerProcess) -> int:
    """How many contacts a crash would leave to this peer."""
    with contextlib.closing(sqlite3.connect(peer.home / "shoal.db")) as database:
        ((count,),) = database.execute("SELECT count(*) FROM dht_contact")
        return int(count)


def state_of(peers: list[dict[str, object]], nickname: str) -> object:
    return next((p["state"] for p in peers if p["nickname"] == nickname), None)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    """Ada and bob upload at 2 MiB/s each; carol fetches."""
    folder = tmp_path_factory.mktemp("slow")
    network = private_network(folder)
    with peers_in(folder, "ada", "bob", "carol") as [ada, bob, carol]:
        throttle(ada, 2 * MIB)
        throttle(bob, 2 * MIB)
        ada.join(network=network, listen=seed_of(network))
        bob.join(network=network)
        carol.join(network=network)
        yield [ada, bob, carol]


def test_two_throttled_holders_each_supply_a_quarter(slow: Peers) -> None:
    ada, bob, carol = slow
    data = content(8 * MIB, "two holders")
    assert put(ada, "two holders.bin", data) == put(bob, "two holders.bin", data)
    [result] = carol.json("get", "two holders.bin")
    assert result["seconds"] < 8 / 2  # one alone would need as long
    assert (carol.folder / "two holders.bin").read_bytes() == data
    assert result["sources"] == 2
    assert set(result["source_bytes"]) == {ada.id, bob.id}
    assert min(result["source_bytes"].values()) >= len(data) / 4
    assert sum(result["source_bytes"].values()) == len(data)


def test_killed_get_resumes_where_it_was(slow: Peers) -> None:
    ada, _, carol = slow
    data = content(6 * MIB, "resumed")
    put(ada, "resumed.bin", data)
    getting = begin_get(carol, "resumed.bin", "-o", "resumed-here.bin")
    until(lambda: bytes_on_disk(carol.folder) >= len(data) / 2)
    # The running peer does the work: both it and its command are killed.
    carol.kill()
    getting.kill()
    getting.communicate()
    assert not (carol.folder / "resumed-here.bin").exists()
    carol.join()
    [result] = carol.json("get", "resumed.bin", "-o", "resumed-here.bin")
    assert (carol.folder / "resumed-here.bin").read_bytes() == data
    assert 0 < result["fetched_bytes"] < 0.6 * len(data)


def test_killed_get_of_a_short_lived_client_resumes(slow: Peers, tmp_path: Path) -> None:
    ada, _, _ = slow
    data = content(4 * MIB, "client")
    put(ada, "client.bin", data)
    network = str(ada.folder.parent / "network.json")
    stranger = PeerProcess(tmp_path, "stranger")
    getting = begin_get(stranger, "client.bin", "--network", network)
    until(lambda: bytes_on_disk(stranger.folder) >= len(data) / 2)
    getting.kill()
    getting.communicate()
    [result] = stranger.json("get", "client.bin", "--network", network)
    assert (stranger.folder / "client.bin").read_bytes() == data
    assert 0 < result["fetched_bytes"] < 0.6 * len(data)


def test_interrupted_get_exits_130_and_keeps_what_it_has(slow: Peers) -> None:
    ada, _, carol = slow
    data = content(4 * MIB, "interrupted")
    put(ada, "interrupted.bin", data)
    getting = begin_get(carol, "interrupted.bin")
    until(lambda: bytes_on_disk(carol.folder) >= MIB)
    getting.send_signal(signal.SIGINT)
    stdout, stderr = getting.communicate(timeout=10)
    assert (getting.returncode, stdout) == (ExitCode.INTERRUPTED, b"")
    assert b"Traceback" not in stderr
    assert not (carol.folder / "interrupted.bin").exists()
    [result] = carol.json("get", "interrupted.bin")
    assert result["fetched_bytes"] < len(data) - MIB / 2
    assert (carol.folder / "interrupted.bin").read_bytes() == data


def test_timeout_is_exit_8_and_keeps_what_came(slow: Peers) -> None:
    ada, _, carol = slow
    data = content(6 * MIB, "timeout")
    put(ada, "timeout.bin", data)
    done = carol.run("get", "timeout.bin", "--timeout", "1")
    assert (done.code, done.stdout) == (ExitCode.TIMED_OUT, "")
    assert not (carol.folder / "timeout.bin").exists()
    [result] = carol.json("get", "timeout.bin")
    assert result["fetched_bytes"] < len(data)


def test_holder_killed_in_the_middle_is_replaced_by_the_other(tmp_path: Path) -> None:
    network = private_network(tmp_path)
    data = content(6 * MIB, "killed")
    with peers_in(tmp_path, "ada", "bob", "carol") as [ada, bob, carol]:
        throttle(ada, 2 * MIB)
        throttle(bob, 2 * MIB)
        bob.join(network=network, listen=seed_of(network))
        ada.join(network=network)
        carol.join(network=network)
        put(ada, "killed.bin", data)
        put(bob, "killed.bin", data)
        getting = begin_get(carol, "killed.bin")
        until(lambda: bytes_on_disk(carol.folder) >= 2 * MIB)
        ada.kill()
        stdout, stderr = getting.communicate(timeout=30)
        assert getting.returncode == 0, stderr
        assert (carol.folder / "killed.bin").read_bytes() == data
        assert bob.id.encode() in stdout


def test_killed_holder_is_exit_4_and_inactive_and_serves_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    with joined(tmp_path, "ada", "bob", "carol", "dora") as [ada, bob, carol, dora]:
        data = content(1000, "gone")
        content_id = put(carol, "gone with carol.bin", data)
        assert {p["state"] for p in ada.json("peers")} == {"active"}
        assert dora.terminate() == 0
        listed = ada.json("peers")
        assert (state_of(listed, "dora"), state_of(listed, "carol")) == ("inactive", "active")

        killed_at = time.monotonic()
        carol.kill()
        for arguments in (["gone with carol.bin"], [content_id, "--timeout", "1"]):
            began = time.monotonic()
            done = bob.run("get", *arguments)
            assert (done.code, done.stdout) == (ExitCode.UNREACHABLE, ""), done.stderr
            assert time.monotonic() - began < 30
            assert "hint: " in done.stderr
        assert list(bob.folder.glob("gone*")) == []
        ada.poll("peers", until=lambda p: state_of(list(p), "carol") == "inactive", timeout_s=55)
        assert time.monotonic() - killed_at < 60

        carol.join()  # on another port; nobody was told
        assert [share["name"] for share in carol.json("shares")] == ["gone with carol.bin"]
        until(lambda: bob.run("get", "gone with carol.bin").code == 0)
        assert (bob.folder / "gone with carol.bin").read_bytes() == data
        ada.poll("peers", until=lambda p: state_of(list(p), "carol") == "active")


def test_unshared_file_is_found_no_more_and_stays_on_disk(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob") as [ada, bob]:
        content_id = put(ada, "secret plan.txt", b"plan")
        assert len(bob.json("search", "plan")) == 1
        [gone] = ada.json("unshare", "secret plan.txt")
        assert gone["content_id"] == content_id
        assert bob.json("search", "plan") == []
        assert ada.json("shares") == []
        assert bob.run("get", "secret plan.txt").code == ExitCode.NOT_FOUND
        assert bob.run("get", content_id).code == ExitCode.NOT_FOUND
        assert (ada.folder / "secret plan.txt").read_bytes() == b"plan"
        assert ada.run("unshare", "secret plan.txt").code == ExitCode.NOT_FOUND
        assert put(ada, "secret plan.txt", b"plan") == content_id
        assert len(bob.json("search", "plan")) == 1


def test_everybody_rejoins_with_the_bootstrap_node_dead_and_everything_is_there(
    tmp_path: Path,
) -> None:
    with joined(tmp_path, "ada", "bob", "carol") as [ada, bob, carol]:
        for peer in (bob, carol):
            put(peer, f"of {peer.name}.txt", peer.name.encode())
        until(lambda: {p["nickname"] for p in carol.json("peers")} == {"ada", "bob"})
        for peer in (bob, carol):
            until(lambda peer=peer: saved_contacts(peer) == 2)
            peer.kill()
        ada.kill()
        bob.start(listen=bob.address)
        carol.start(listen=carol.address)
        bob.wait_ready()
        carol.wait_ready()
        carol.poll("peers", until=lambda p: state_of(list(p), "bob") == "active")
        assert carol.json("get", "of bob.txt")[0]["size"] == 3
        assert bob.json("get", "of carol.txt")[0]["size"] == 5


def test_clean_restart_keeps_the_shares_and_the_identity(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob") as [ada, bob]:
        who = bob.id
        put(bob, "kept.txt", b"kept")
        put(bob, "vanishes.txt", b"vanishes")
        put(bob, "changes.txt", b"changes")
        assert bob.terminate() == 0
        (bob.folder / "vanishes.txt").unlink()
        os.utime(bob.folder / "changes.txt", ns=(1, 1))
        bob.join()
        assert bob.id == who
        bob.poll("shares", until=lambda s: [x["name"] for x in s] == ["kept.txt"])
        assert "'vanishes.txt' is no longer shared" in bob.log
        assert "'changes.txt' is no longer shared" in bob.log
        ada.poll("search", "kept", until=len)
        assert ada.json("get", "kept.txt")[0]["size"] == 4
        assert ada.json("search", "vanishes") == []


def test_files_named_at_the_start_are_shared(tmp_path: Path) -> None:
    with joined(tmp_path, "ada") as [ada], peers_in(tmp_path, "bob") as [bob]:
        (bob.folder / "from the start.txt").write_text("here")
        network = tmp_path / "network.json"
        bob.start("--share", "from the start.txt", "--share", "missing.txt", network=network)
        assert bob.wait_end() == 2
        assert "missing.txt does not exist" in bob.log
        bob.join("--share", "from the start.txt", network=network)
        ada.poll("search", "start", until=len)
        assert ada.json("get", "from the start.txt")[0]["size"] == 4
