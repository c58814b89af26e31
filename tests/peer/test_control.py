import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from peer import control
from peer.control import ControlServer, Emit
from peer.control_client import call
from peer.failures import ExitCode, Failure, NoPeerRunning
from peer.home import Home


class Peer:
    """Handlers for the tests, and what became of them."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def handle(self, command: str, arguments: dict[str, Any], emit: Emit) -> None:
        match command:
            case "items":
                for number in range(arguments["count"]):
                    await emit({"event": "item", "item": {"number": number}})
                await emit({"event": "result", "result": {"sum": arguments["count"]}})
            case "fail":
                raise Failure("no such file", hint="look again", exit_code=ExitCode.NOT_FOUND)
            case "break":
                raise KeyError("boom")
            case "wait":
                self.started.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    self.cancelled.set()
            case "huge":
                await emit({"event": "item", "item": {"x": "y" * control.LINE_BYTES_MAX}})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "h")
    home.ensure()
    return home


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
async def server(home: Home, peer: Peer) -> AsyncIterator[ControlServer]:
    server = ControlServer(home.socket_path, peer.handle)
    await server.start()
    yield server
    await server.stop()


async def ask(home: Home, command: str, **arguments: object) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    await asyncio.to_thread(call, home, command, arguments, events.append)
    return events


async def test_events_arrive_in_order_until_done(home: Home, server: ControlServer) -> None:
    events = await ask(home, "items", count=3)
    assert [event["item"]["number"] for event in events[:-1]] == [0, 1, 2]
    assert events[-1] == {"event": "result", "result": {"sum": 3}}


async def test_failure_keeps_message_hint_and_code(home: Home, server: ControlServer) -> None:
    with pytest.raises(Failure, match="no such file") as caught:
        await ask(home, "fail")
    assert (caught.value.hint, caught.value.exit_code) == ("look again", ExitCode.NOT_FOUND)


async def test_broken_handler_is_an_internal_error_and_the_server_lives(
    home: Home, server: ControlServer, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Failure, match="boom") as caught:
        await ask(home, "break")
    assert caught.value.exit_code is ExitCode.INTERNAL
    assert caught.value.hint
    assert len(await ask(home, "items", count=1)) == 2


async def test_client_that_goes_away_cancels_its_command(
    home: Home, server: ControlServer, peer: Peer
) -> None:
    _, writer = await asyncio.open_unix_connection(str(home.socket_path))
    writer.write(b'{"command": "wait", "arguments": {}, "version": 1}\n')
    async with asyncio.timeout(5):
        await peer.started.wait()
        assert not peer.cancelled.is_set()
        writer.close()
        await peer.cancelled.wait()


async def test_leaving_peer_tells_its_clients(
    home: Home, server: ControlServer, peer: Peer
) -> None:
    waiting = asyncio.create_task(ask(home, "wait"))
    await peer.started.wait()
    await server.stop()
    with pytest.raises(Failure, match="leaving") as caught:
        await waiting
    assert caught.value.exit_code is ExitCode.NO_PEER
    assert not home.socket_path.exists()


async def test_killed_peer_is_told_from_a_slow_one(home: Home, peer: Peer) -> None:
    with pytest.raises(NoPeerRunning) as caught:
        await ask(home, "items", count=1)
    assert caught.value.exit_code is ExitCode.NO_PEER
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(home.socket_path))
    stale.close()
    with pytest.raises(NoPeerRunning):
        await ask(home, "items", count=1)
    server = ControlServer(home.socket_path, peer.handle)
    await server.start()
    await ask(home, "items", count=1)
    await server.stop()


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"[]\n",
        b'{"command": "items"}\n',
        b'{"command": 3, "version": 1}\n',
        b'{"command": "items", "arguments": [], "version": 1}\n',
        b'{"command": "items", "version": 2}\n',
        b"\xff\xfe\n",
    ],
)
async def test_malformed_request_is_answered_and_harms_nobody(
    home: Home, server: ControlServer, line: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(home.socket_path))
    writer.write(line)
    answer = json.loads(await reader.readline())
    assert (answer["event"], answer["exit_code"]) == ("error", ExitCode.USAGE)
    writer.close()
    assert len(await ask(home, "items", count=1)) == 2


async def test_endless_request_is_cut_off_and_harms_nobody(
    home: Home, server: ControlServer
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(home.socket_path))
    with contextlib.suppress(ConnectionError):  # what was not read resets the connection
        for _ in range(64):
            writer.write(b"x" * 65536)
            await writer.drain()
        await reader.read()
    writer.close()
    assert len(await ask(home, "items", count=1)) == 2


async def test_answer_beyond_the_limit_is_an_error_not_a_broken_line(
    home: Home, server: ControlServer, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Failure, match="too long"):
        await ask(home, "huge")


async def test_another_user_gets_no_answer(
    home: Home, server: ControlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peer.control.os.getuid", lambda: 12345)
    reader, writer = await asyncio.open_unix_connection(str(home.socket_path))
    assert await reader.read() == b""
    assert server.refused == 1
    writer.close()


async def test_socket_is_closed_to_others(home: Home, server: ControlServer) -> None:
    assert home.socket_path.stat().st_mode & 0o777 == 0o600
    assert home.socket_path.parent.stat().st_mode & 0o777 == 0o700
