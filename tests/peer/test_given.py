import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from peer.failures import ExitCode, Failure
from peer.given import (
    check_arguments,
    get_target,
    parse_address,
    parse_advertised,
    parse_listen,
    read_invite,
    read_join,
    read_secret,
)

ROOT = Path(__file__).resolve().parents[2]

# Prints what happened to it; `slow` never leaves by itself.
_PEER = """
import asyncio, sys
from peer.given import leave_on_signals

async def main():
    leaving = asyncio.Event()
    leave_on_signals(leaving)
    print("ready", flush=True)
    await leaving.wait()
    print("leaving", flush=True)
    if sys.argv[1] == "slow":
        await asyncio.Event().wait()

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_leaves_and_second_ends_at_once(loop: str, number: signal.Signals) -> None:
    for pace, code in (("quick", 0), ("slow", 130)):
        process = subprocess.Popen(
            [sys.executable, "-c", _PEER, pace, loop], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        with process.stdout as lines:
            assert lines.readline() == b"ready\n"
            process.send_signal(number)
            assert lines.readline() == b"leaving\n"
            if pace == "slow":
                process.send_signal(number)
            assert process.wait(10) == code


def test_port_zero_is_for_listening_only() -> None:
    assert parse_listen("127.0.0.1:0").port == 0
    assert str(parse_listen("[::1]:0")) == "[::1]:0"
    assert parse_listen("127.0.0.1:5").port == 5
    assert parse_advertised("192.0.2.1").port == 0
    assert parse_address("192.0.2.1").port == 4100
    with pytest.raises(ValueError, match="port"):
        parse_address("192.0.2.1:0")


def test_secret_comes_from_a_file_and_a_missing_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("amqp://broker/\n")
    assert read_secret(f"@{path}") == "amqp://broker/"
    assert read_secret("amqp://other/") == "amqp://other/"
    assert read_secret("") is None
    with pytest.raises(FileNotFoundError):
        read_secret(f"@{tmp_path}/none")
    path.write_bytes(b"\xff")
    with pytest.raises(Failure, match="UTF-8"):
        read_secret(f"@{path}")


def test_invite_comes_from_stdin_for_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("shoal1-abc\nmore\n"))
    assert read_invite("-") == "shoal1-abc"
    assert read_invite("shoal1-x") == "shoal1-x"
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(Failure, match="no invite"):
        read_invite("-")


def test_argument_that_is_no_utf8_is_refused() -> None:
    check_arguments(["ok", "ü", "😀"])
    with pytest.raises(Failure, match="not valid UTF-8") as caught:
        check_arguments([os.fsdecode(b"a\xff")])
    assert caught.value.exit_code is ExitCode.USAGE


def test_target_is_the_name_in_a_folder_or_a_path_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    assert get_target(None, overwrite=False) == (str(tmp_path), None)
    assert get_target(".", overwrite=False) == (str(tmp_path), None)
    assert get_target("new", overwrite=False) == (str(tmp_path), str(tmp_path / "new"))
    with pytest.raises(Failure, match="there already"):
        get_target("dangling", overwrite=False)
    assert get_target("dangling", overwrite=True)[1] == str(tmp_path / "dangling")


def test_join_is_read_once_and_its_paths_hold_in_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "url").write_text("amqp://broker/\n")
    given = {
        "invite": None,
        "queue": "@url",
        "shares": (Path("a"), Path("/b")),
        "network_file": Path("../net.json"),
        "listen": None,
    }
    read = read_join(given)
    assert read["queue"] == "amqp://broker/"
    assert read["shares"] == (tmp_path / "a", Path("/b"))
    assert read["network_file"] == tmp_path.parent / "net.json"
    assert read_join({**given, "network_file": None})["network_file"] is None
