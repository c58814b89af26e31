"""`shoal doctor` with and without a running peer: what it finds, and that it always ends."""

import contextlib
import json
import re
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.stage import free_port
from tests.support.processes import (
    CLI,
    Completed,
    PeerProcess,
    joined,
    peers_in,
    private_network,
    run_shoal,
)

LONGEST_S = 12.0
"""Ten seconds that it promises, and the start of the process on a busy machine."""
CELLS = 4


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[PeerProcess]]:
    with joined(tmp_path_factory.mktemp("doctor"), "ada", "bob", "carol") as peers:
        yield peers


def checks(done: Completed) -> dict[str, dict[str, Any]]:
    """The checks by name; a doctor that could do its work exits 0, whatever it found."""
    assert done.code == 0, done.stderr
    return {check["check"]: check for check in done.items}


def states(done: Completed) -> dict[str, str]:
    return {name: check["state"] for name, check in checks(done).items()}


def seed(network: Path) -> str:
    node = json.loads(network.read_text())["bootstrap"][0]
    return f"bootstrap {node['host']}:{node['port']}"


def test_healthy_peer_has_no_problem(peers: list[PeerProcess]) -> None:
    ada, bob, _ = peers
    found = checks(bob.run("--json", "doctor"))
    assert {check["state"] for check in found.values()} <= {"ok", "skipped"}, found
    assert ada.id in found[seed(ada.folder.parent / "network.json")]["seen"]
    assert "2 of 2" in found["contacts"]["seen"]
    assert "2 peers" in found["clock"]["seen"]
    assert "this peer itself" in str(checks(ada.run("--json", "doctor")))
    lines = bob.run("doctor").stdout.splitlines()
    assert {len(line.split("\t")) for line in lines} == {CELLS}


def test_files_that_others_can_read_and_a_full_disk_are_problems(
    peers: list[PeerProcess],
) -> None:
    carol = peers[2]
    config = carol.home / "config.toml"
    config.write_text('[disk]\nfree_bytes_min = "900TB"\n[queue]\namqp = "amqp://u:p@h/v"\n')
    config.chmod(0o644)
    (carol.home / "identity.key").chmod(0o644)
    found = checks(carol.run("--json", "doctor"))
    assert (found["home"]["state"], found["config"]["state"]) == ("problem", "problem")
    assert found["home"]["remedy"] == f"chmod 600 {carol.home / 'identity.key'}"
    assert found["config"]["remedy"] == f"chmod 600 {config}"
    config.chmod(0o600)
    (carol.home / "identity.key").chmod(0o600)
    found = checks(carol.run("--json", "doctor"))
    assert (found["home"]["state"], found["config"]["state"]) == ("ok", "ok")
    assert found["disk"]["state"] == "problem"
    assert "900.0 TB" in found["disk"]["remedy"]
    config.unlink()


def test_no_peer_and_no_network_is_no_error(tmp_path: Path) -> None:
    alone = tmp_path / "cli.py"  # no bootstrap.json stands beside it
    shutil.copy(CLI, alone)
    path = {"PYTHONPATH": str(CLI.parent)}
    words = ("--json", "doctor", "--listen", "127.0.0.1:0")
    found = states(run_shoal(tmp_path, *words, extra=path, cli=alone))
    assert (found["peer"], found["home"], found["network"]) == ("skipped",) * 3
    assert (found["config"], found["ports"]) == ("ok", "ok")
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "home" / "network.json").write_text("{}")
    found = states(run_shoal(tmp_path, *words, extra=path, cli=alone))
    assert (found["home"], found["network"]) == ("problem", "problem")


def test_wrong_key_silent_node_and_taken_port_are_told_without_a_peer(
    peers: list[PeerProcess], tmp_path: Path
) -> None:
    ada = peers[0]
    network = ada.folder.parent / "network.json"
    file = json.loads(network.read_text())
    absent = f"127.0.0.1:{free_port()}"
    host, _, port = absent.rpartition(":")
    file["bootstrap"] += [
        {"host": host, "port": int(port)},
        {"host": "no-such-name.invalid", "port": 4100},
    ]
    good = tmp_path / "good.json"
    good.write_text(json.dumps(file))
    listen = ["--listen", ada.address]
    found = states(run_shoal(tmp_path, "--json", "doctor", "--network", str(good), *listen))
    assert found[seed(network)] == "ok"
    assert found[f"bootstrap {absent}"] == "warning"
    assert found["bootstrap no-such-name.invalid:4100"] == "warning"
    assert (found["ports"], found["clock"]) == ("problem", "ok")
    file["key"] = json.loads(private_network(tmp_path).read_text())["key"]
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(file))
    foreign = checks(run_shoal(tmp_path, "--json", "doctor", "--network", str(wrong)))
    assert foreign[seed(network)]["state"] == "problem"
    assert "another network" in foreign[seed(network)]["seen"]
    assert foreign[f"bootstrap {absent}"]["state"] == "problem"
    assert not (tmp_path / "home").exists(), "a doctor makes no home"


def test_clock_that_is_off_is_told(peers: list[PeerProcess], tmp_path: Path) -> None:
    skewed = tmp_path / "skewed.py"
    skewed.write_text(
        "import runpy, sys, time\n"
        "ns = time.time_ns\n"
        "time.time_ns = lambda: ns() - 7200 * 10**9\n"
        f"sys.path[0] = {str(CLI.parent)!r}\n"
        f"sys.argv[0] = {str(CLI)!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    network = peers[0].folder.parent / "network.json"
    with peers_in(tmp_path, "dora", cli=skewed) as [dora]:
        dora.join(network=network)
        clock = checks(dora.run("--json", "doctor"))["clock"]
    assert clock["state"] == "problem"
    assert re.fullmatch(r"(7199|720\d) s behind 3 peers", clock["seen"]), clock


def test_doctor_ends_though_the_peer_hangs_and_a_node_swallows_everything(
    tmp_path: Path,
) -> None:
    with contextlib.ExitStack() as stack:
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        tcp = stack.enter_context(socket.socket())
        tcp.bind(udp.getsockname())
        tcp.listen(1)
        network = private_network(tmp_path, seed_port=udp.getsockname()[1])
        [peer] = stack.enter_context(peers_in(tmp_path, "ada"))
        peer.join(network=network)
        began = time.monotonic()
        found = states(peer.run("--json", "doctor"))
        assert time.monotonic() - began < LONGEST_S
        assert (found["peer"], found[seed(network)]) == ("ok", "problem")
        peer.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            hung = checks(peer.run("--json", "doctor"))
            assert time.monotonic() - began < LONGEST_S
        finally:
            peer.signal(signal.SIGCONT)
        assert hung["peer"]["state"] == "problem"
        assert str(peer.pid) in hung["peer"]["seen"]
        assert hung[seed(network)]["state"] == "problem"


def test_status_tells_how_the_dht_does(peers: list[PeerProcess]) -> None:
    bob = peers[1]
    bob.run("get", "nothing of this name")
    [status] = bob.json("status")
    assert status["contacts"] >= 2
    assert status["lookups"] > 0
    assert 0 <= status["lookup_ms_p50"] <= status["lookup_ms_p95"] < 5_000
    assert status["records_published"] >= 2
    assert status["republish_in_s"] > 3_600
    assert status["reachability"] in ("yes", "no", "unknown")
    assert (status["clock_offset_ms"], status["observed_address"]) == (0, bob.address)
