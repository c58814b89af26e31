"""`get -o -` as a real process: when what comes out, and how it ends."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import pytest

from peer.failures import ExitCode
from tests.support.processes import CLI, environment
from tests.support.scripted_peer import ScriptedPeer, result

MIB = 1024 * 1024
MEMORY_MAX_BYTES = 256 * MIB


def ready(path: Path, size_bytes: int) -> dict[str, Any]:
    return {"event": "ready", "path": str(path), "bytes": size_bytes}


def got(path: Path) -> dict[str, Any]:
    return result(
        path=str(path),
        size=path.stat().st_size,
        content_id="b3:00",
        sources=1,
        fetched_bytes=0,
        seconds=0.1,
    )


def begin(folder: Path, stdout: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(CLI), "get", "x", "-o", "-"],
        cwd=folder,
        env=environment(folder),
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def part(tmp_path: Path) -> Path:
    path = tmp_path / ".shoal-0.part"
    path.write_bytes(os.urandom(3 * MIB))
    return path


def test_content_is_out_before_the_rest_has_come(tmp_path: Path, part: Path) -> None:
    data, rest = part.read_bytes(), threading.Event()
    script = {"get": [ready(part, MIB), rest, ready(part, 2 * MIB), got(part)]}
    with ScriptedPeer(tmp_path, script), begin(tmp_path) as child:
        assert child.stdout is not None
        assert child.stdout.read(MIB) == data[:MIB]
        rest.set()
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (0, data[MIB:], b"")
    assert not part.exists()


def test_part_that_got_its_name_meanwhile_is_found_under_that(tmp_path: Path, part: Path) -> None:
    data, target = part.read_bytes(), tmp_path / "get-1"
    part.rename(target)
    with ScriptedPeer(tmp_path, {"get": [ready(part, MIB), got(target)]}), begin(tmp_path) as child:
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (0, data, b"")
    assert not target.exists()


def test_reader_that_goes_away_ends_the_get_at_once_and_quietly(tmp_path: Path, part: Path) -> None:
    gone, never = threading.Event(), threading.Event()
    script = {"get": [ready(part, MIB), gone, ready(part, 2 * MIB), never]}
    with ScriptedPeer(tmp_path, script) as peer, begin(tmp_path) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read(MIB)
        child.stdout.close()
        gone.set()
        # The peer says nothing more: the command must notice by itself.
        assert peer.cancelled.wait(20)
        assert child.stderr.read() == b""
        assert child.wait(20) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_stdout_without_room_is_a_clear_error(tmp_path: Path, part: Path) -> None:
    script = {"get": [ready(part, MIB), threading.Event()]}
    with (
        ScriptedPeer(tmp_path, script) as peer,
        Path("/dev/full").open("wb") as full,
        begin(tmp_path, full) as child,
    ):
        _, err = child.communicate(timeout=20)
        assert peer.cancelled.wait(20)
    assert child.returncode == ExitCode.FULL
    assert err == b"shoal: No space left on device\n"


def test_get_that_fails_midway_says_so_and_does_not_wait_for_the_reader(
    tmp_path: Path, part: Path
) -> None:
    lost = OSError("the holder went away")
    with ScriptedPeer(tmp_path, {"get": [ready(part, 3 * MIB), lost]}), begin(tmp_path) as child:
        assert child.stderr is not None
        assert b"went away" in child.stderr.read()  # nobody has read stdout yet
        assert child.wait(20) == ExitCode.INTERNAL


def test_memory_does_not_grow_with_the_file(tmp_path: Path, part: Path) -> None:
    os.truncate(part, MEMORY_MAX_BYTES)
    program = (
        "import resource, runpy, sys\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY_MAX_BYTES}, {MEMORY_MAX_BYTES}))\n"
        f"sys.argv = [{str(CLI)!r}, 'get', 'x', '-o', '-']\n"
        f"sys.path[0] = {str(CLI.parent)!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    with ScriptedPeer(tmp_path, {"get": [ready(part, MEMORY_MAX_BYTES), got(part)]}):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
