"""Files through pipes: `put -` and `get -o -` between real peers, and without a running one."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.failures import ExitCode
from tests.support.processes import CLI, PeerProcess, environment, joined, run_shoal
from tests.support.waiting import until
from tests.transfer.peers import random_bytes

MIB = 1024 * 1024
SIZE = 9 * MIB + 5


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[PeerProcess]]:
    folder = tmp_path_factory.mktemp("streams")
    with joined(folder, "ada", "bob") as running:
        yield running


def pipe(peer: PeerProcess, data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, str(CLI), "--home", str(peer.home), "put", "-", *words],
        cwd=peer.folder,
        env=environment(peer.folder),
        input=data,
        capture_output=True,
        check=False,
    )


def leftovers(peer_folder: Path) -> list[str]:
    home = peer_folder / "home"
    kept = [*(home / "run").glob("*"), *(home / "piped").glob("*")]
    return sorted(p.name for p in kept if p.name not in ("lock", "control.sock"))


def test_what_is_piped_in_here_comes_out_of_the_pipe_there(peers: list[PeerProcess]) -> None:
    ada, bob = peers
    data = random_bytes(SIZE)
    done = pipe(ada, data, "--as", "stream.bin")
    assert done.returncode == 0, done.stderr
    got = subprocess.run(
        [sys.executable, str(CLI), "--home", str(bob.home), "get", "stream.bin", "-o", "-"],
        cwd=bob.folder,
        env=environment(bob.folder),
        capture_output=True,
        check=False,
    )
    assert (got.returncode, got.stderr) == (0, b"")
    assert got.stdout == data
    assert bob.json("shares") == []
    assert len(leftovers(ada.folder)) == 1
    ada.json("unshare", "stream.bin")
    for peer in peers:
        assert leftovers(peer.folder) == []


def test_what_is_piped_to_a_peer_arrives_and_stays_nowhere_else(peers: list[PeerProcess]) -> None:
    ada, bob = peers
    done = pipe(ada, b"dear bob", "--as", "letter.txt", "--to", "bob")
    assert done.returncode == 0, done.stderr
    [letter] = [each for each in bob.json("inbox") if each["name"] == "letter.txt"]
    assert Path(letter["path"]).read_bytes() == b"dear bob"
    assert leftovers(ada.folder) == []
    assert ada.json("shares") == []


def test_stdin_wants_a_name_a_peer_and_no_company(peers: list[PeerProcess], tmp_path: Path) -> None:
    ada = peers[0]
    done = ada.run("put", "-")
    assert (done.code, done.stdout) == (ExitCode.USAGE, "")
    assert "hint: shoal put - --as NAME" in done.stderr
    assert ada.run("put", "-", "x").code == ExitCode.USAGE
    assert run_shoal(tmp_path, "put", "-", "--as", "x").code == ExitCode.NO_PEER
    assert leftovers(ada.folder) == []


def test_reader_without_a_peer_may_leave_early(peers: list[PeerProcess], tmp_path: Path) -> None:
    ada = peers[0]
    path = ada.folder / "long.bin"
    path.write_bytes(random_bytes(SIZE))
    ada.json("put", str(path))
    network = ada.folder.parent / "network.json"
    command = ["get", "long.bin", "-o", "-", "--network", str(network)]
    with subprocess.Popen(
        [sys.executable, str(CLI), *command],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.read(MIB) == path.read_bytes()[:MIB]
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(20) == 0
    until(lambda: leftovers(tmp_path) == [])
