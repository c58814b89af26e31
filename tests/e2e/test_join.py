"""Joining and leaving: which network, which port, with whom, and how a peer goes."""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.failures import ExitCode
from peer.home import Home
from peer.node import LEAVE_TIMEOUT_S
from tests.support.processes import (
    CLI,
    PeerProcess,
    environment,
    joined,
    peers_in,
    private_network,
    run_shoal,
    seed_of,
)
from tests.support.waiting import until

ROOT = CLI.parent
PACKAGES = ("console", "dht", "identity", "peer", "protos", "queueing", "rpc", "transfer")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The command as an installation has it: no bootstrap.json beside cli.py."""
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(CLI, site)
    for name in PACKAGES:
        (site / name).symlink_to(ROOT / name)
    return site / "cli.py"


@contextlib.contextmanager
def taken(kind: socket.SocketKind, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Hold a port of one protocol; whoever has it already holds it as well as we would."""
    with socket.socket(socket.AF_INET, kind) as holder:
        with contextlib.suppress(OSError):
            holder.bind((host, port))
            if kind is socket.SOCK_STREAM:
                holder.listen(1)
        yield port or holder.getsockname()[1]


def is_active(name: str):
    return lambda peers: any(p["nickname"] == name and p["state"] == "active" for p in peers)


def test_ready_says_who_and_where_when_the_own_record_is_stored(tmp_path: Path) -> None:
    began = time.monotonic()
    with joined(tmp_path, "ada", "bob") as [ada, bob]:
        assert time.monotonic() - began < 10
        assert re.fullmatch(r"[a-z2-7]{32}", bob.id)
        assert re.fullmatch(r"127\.0\.0\.1:\d+", bob.address)
        [status] = bob.json("status")
        assert (status["id"], status["address"]) == (bob.id, bob.address)
        assert (status["nickname"], status["network"]) == ("bob", "test")
        assert (status["pid"], status["peers_active"]) == (bob.pid, 1)
        # ada knows bob's nickname: only his record can have told her.
        done = ada.run("get", "nothing", "--from", "bob")
        assert done.code == ExitCode.NOT_FOUND
        assert "bob offers nothing" in done.stderr


def test_udp_and_tcp_have_the_same_number(tmp_path: Path) -> None:
    with joined(tmp_path, "ada") as [ada]:
        port = int(ada.address.rpartition(":")[2])
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with (
                socket.socket(socket.AF_INET, kind) as other,
                pytest.raises(OSError, match="in use"),
            ):
                other.bind(("127.0.0.1", port))


def test_ctrl_c_is_a_clean_leave_that_withdraws_the_records(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob") as [ada, bob]:
        (bob.folder / "song.txt").write_text("la")
        bob.json("put", "song.txt")
        assert [hit["name"] for hit in ada.json("search", "song")] == ["song.txt"]
        began = time.monotonic()
        bob.signal(signal.SIGINT)
        assert bob.wait_end() == 0
        assert time.monotonic() - began < 10
        assert ada.json("search", "song") == []
        assert ada.run("get", "song.txt").code == ExitCode.NOT_FOUND
        assert [(p["nickname"], p["state"]) for p in ada.json("peers")] == [("bob", "inactive")]


def test_leave_with_silent_neighbours_takes_less_than_ten_seconds(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob") as [ada, bob]:
        ada.signal(signal.SIGSTOP)
        began = time.monotonic()
        assert bob.terminate() == 0
        assert time.monotonic() - began < 10


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob") as [ada, bob]:
        ada.signal(signal.SIGSTOP)  # the leave now waits for an answer that does not come
        bob.signal(signal.SIGTERM)
        # Gone as soon as the leave has begun.
        until(lambda: not Home(bob.home).socket_path.exists(), 5)
        began = time.monotonic()
        bob.signal(signal.SIGTERM)
        assert bob.wait_end() == ExitCode.INTERRUPTED
        assert time.monotonic() - began < LEAVE_TIMEOUT_S / 2


def test_invite_of_any_member_works_and_the_network_is_remembered(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob") as [ada, bob], peers_in(tmp_path, "carol") as [carol]:
        [shown] = bob.json("invite")
        assert set(shown) == {"invite"}
        ada.terminate()  # bob's invite leads to bob, whoever else is gone
        carol.join("-", stdin=shown["invite"] + "\n")
        assert is_active("bob")(carol.json("peers"))
        assert shown["invite"] not in carol.log
        assert shown["invite"].encode() not in Path(f"/proc/{carol.pid}/cmdline").read_bytes()
        assert carol.terminate() == 0
        carol.join()
        assert is_active("bob")(carol.json("peers"))
        assert carol.json("status")[0]["network"] == "test"
        remembered = Home(carol.home).network_path
        assert remembered.stat().st_mode & 0o777 == 0o600


def test_one_home_has_one_network(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with joined(first, "ada") as [ada]:
        ada.terminate()
        other = private_network(second)
        done = ada.run("join", "--network", str(other), "--listen", "127.0.0.1:0")
        assert (done.code, done.stdout) == (ExitCode.USAGE, "")
        assert "another network" in done.stderr
        assert "hint: one home, one network" in done.stderr
        ada.join(listen=ada.address)  # what it remembers is untouched


def test_installed_command_without_a_network_makes_a_private_one(
    tmp_path: Path, installed: Path
) -> None:
    with peers_in(tmp_path, "ada", cli=installed) as [ada], peers_in(tmp_path, "bob") as [bob]:
        (ada.folder / "bootstrap.json").write_text('{"the current folder": "is never read"}')
        ada.join()
        [status] = ada.json("status")
        assert status["private"] is True
        [shown] = ada.json("invite")
        bob.join(shown["invite"])
        assert is_active("ada")(bob.json("peers"))
        ada.terminate()
        ada.join()
        assert ada.json("status")[0]["network"] == status["network"]
        assert shown["invite"] not in ada.log


def test_checkout_joins_its_own_network_and_skips_its_own_address(
    tmp_path: Path, installed: Path
) -> None:
    network = private_network(tmp_path, is_open=True)
    shutil.copy(network, installed.parent / "bootstrap.json")
    with PeerProcess(tmp_path, "ada", cli=installed) as ada:
        ada.join(listen=seed_of(network))
        assert ada.address == seed_of(network)
        [status] = ada.json("status")
        assert (status["network"], status["private"]) == ("test", False)
        assert "no bootstrap node answers" not in ada.log
        with PeerProcess(tmp_path, "bob", cli=installed) as bob:
            bob.join()
            assert is_active("ada")(bob.json("peers"))
        done = ada.run("search", "nothing")
        assert (done.code, done.stdout) == (0, "")
    # What the checkout says is not remembered: the file may change with the next version.
    assert Home(ada.home).read_network() is None


def test_repository_describes_an_open_network_on_loopback() -> None:
    described = json.loads((ROOT / "bootstrap.json").read_text())
    assert "key" not in described
    assert described["bootstrap"] == [{"host": "127.0.0.1", "port": 4100}]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_next_free_port_where_the_default_is_taken(
    tmp_path: Path, installed: Path, kind: socket.SocketKind
) -> None:
    with taken(kind, "0.0.0.0", 4100), PeerProcess(tmp_path, "ada", cli=installed) as ada:
        ada.join(listen=None)
        host, _, port = ada.address.rpartition(":")
        assert 4100 < int(port) < 4200
        assert host != "0.0.0.0"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_asked_port_in_use_is_exit_2(tmp_path: Path, kind: socket.SocketKind) -> None:
    with taken(kind) as port:
        network = private_network(tmp_path)
        done = run_shoal(
            tmp_path, "join", "--network", str(network), "--listen", f"127.0.0.1:{port}"
        )
    assert (done.code, done.stdout) == (ExitCode.USAGE, "")
    assert str(port) in done.stderr.splitlines()[0]
    assert done.stderr.splitlines()[1].startswith("hint: ")
    assert Home(tmp_path / "home").running_pid() is None


def test_wrong_network_key_is_exit_6(tmp_path: Path) -> None:
    with joined(tmp_path, "ada") as [ada]:
        described = json.loads((tmp_path / "network.json").read_text())
        described["key"] = base64.b64encode(os.urandom(32)).decode()
        wrong = tmp_path / "wrong.json"
        wrong.write_text(json.dumps(described))
        eve = tmp_path / "eve"
        eve.mkdir()
        began = time.monotonic()
        done = run_shoal(eve, "join", "--network", str(wrong), "--listen", "127.0.0.1:0")
        assert time.monotonic() - began < 10
        assert (done.code, done.stdout) == (ExitCode.NOT_PERMITTED, "")
        assert "key" in done.stderr.splitlines()[0]
        assert "hint: " in done.stderr
        done = run_shoal(eve, "search", "x", "--network", str(wrong))
        assert done.code == ExitCode.NOT_PERMITTED, done.stderr
        assert ada.json("peers") == []


def test_peer_that_starts_before_its_bootstrap_node_joins_when_that_comes(tmp_path: Path) -> None:
    network = private_network(tmp_path)
    with peers_in(tmp_path, "ada", "bob") as [ada, bob]:
        bob.join(network=network)
        assert f"no bootstrap node answers ({seed_of(network)})" in bob.log
        (bob.folder / "early bird.txt").write_text("worm")
        done = bob.run("--json", "put", "early bird.txt")
        assert done.items[0]["stored_on"] == 0
        assert "no other peer has the records yet" in done.stderr
        assert [hit["name"] for hit in bob.json("search", "bird")] == ["early bird.txt"]
        ada.join(network=network, listen=seed_of(network))
        bob.poll("peers", until=is_active("ada"))
        ada.poll("search", "early", "bird", until=len)
        assert ada.json("get", "early bird.txt")[0]["size"] == 4


def test_network_file_that_is_malformed_is_exit_2_and_names_what_is_wrong(tmp_path: Path) -> None:
    good = json.loads(private_network(tmp_path).read_text())
    bad = {
        "surprise": {**good, "surprise": 1},
        "key": {**good, "key": "AAAA"},
        "bootstrap": {**good, "bootstrap": "127.0.0.1"},
        "port": {**good, "bootstrap": [{"host": "127.0.0.1", "port": 70000}]},
        "queue": {**good, "queue": {"amqp": "amqp://user:secret@host/"}},
    }
    for named, content in bad.items():
        path = tmp_path / "bad.json"
        path.write_text(json.dumps(content))
        done = run_shoal(tmp_path, "join", "--network", "bad.json", "--listen", "127.0.0.1:0")
        assert done.code == ExitCode.USAGE, (named, done.stderr)
        assert named in done.stderr.splitlines()[0]
        assert "secret" not in done.stderr
        assert done.stdout == ""
    path.write_text("no JSON")
    for name in ("bad.json", "missing.json"):
        done = run_shoal(tmp_path, "search", "x", "--network", name)
        assert (done.code, done.stdout) == (ExitCode.USAGE, "")
        assert name in done.stderr or "JSON" in done.stderr


def test_json_fields_are_those_of_the_contract(tmp_path: Path) -> None:
    with joined(tmp_path, "ada", "bob") as [ada, bob]:
        (ada.folder / "fields.txt").write_text("0123456789")
        (ada.folder / "letter.txt").write_text("dear bob")
        put = ada.json("put", "fields.txt")
        sent = ada.json("put", "letter.txt", "--to", "bob")
        status = {"id", "nickname", "address", "network", "pid", "peers_active"}
        listed = {"name", "size", "content_id", "holders"}
        fields = {
            "put": (put, {"name", "size", "content_id", "stored_on", "found_on", "closest"}),
            "sent": (sent, {"delivery_id", "name", "state", "held_by", "expires"}),
            "search": (bob.json("search", "fields"), listed),
            "get": (
                bob.json("get", "fields.txt"),
                {"path", "size", "content_id", "sources", "fetched_bytes", "seconds"},
            ),
            "shares": (ada.json("shares"), listed),
            "peers": (
                ada.json("peers"),
                {"id", "nickname", "address", "state", "last_seen", "rtt_ms"},
            ),
            "inbox": (
                bob.json("inbox"),
                {"delivery_id", "name", "from", "size", "path", "state"},
            ),
            "outbox": (
                ada.json("outbox"),
                {"delivery_id", "name", "to", "state", "held_by", "expires"},
            ),
            "status": (ada.json("status"), status),
            "invite": (ada.json("invite"), {"invite"}),
        }
        for command, (items, wanted) in fields.items():
            assert len(items) == 1, (command, items)
            assert wanted <= set(items[0]), command


def test_global_options_are_taken_before_and_after_and_script_and_module_agree(
    tmp_path: Path,
) -> None:
    with joined(tmp_path, "ada") as [ada]:
        home, before = str(ada.home), environment(tmp_path)
        lines = [
            [sys.executable, str(CLI), "--home", home, "--json", "status"],
            [sys.executable, str(CLI), "status", "--json", "--home", home],
        ]
        script = Path(sys.executable).parent / "shoal"
        if script.exists():
            lines.append([str(script), "--json", "status", "--home", home])
        for line in lines:
            done = subprocess.run(
                line, cwd=tmp_path, env=before, capture_output=True, timeout=20, check=True
            )
            assert json.loads(done.stdout)["id"] == ada.id
