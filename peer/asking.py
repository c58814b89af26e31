"""Have a command done: by the home's running peer, or without one by a client for the moment.

Owns that choice for `search`, `get` and `doctor`. Must not know what the commands do nor how their
events are shown. The client's packages are loaded only when it is needed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from peer.control_client import call
from peer.failures import NoPeerRunning, PeerSilent
from peer.home import Home

Show = Callable[[dict[str, Any]], None]
FIRST_ANSWER_S = {"doctor": 2.5}
"""A peer that hangs is what a doctor is called for; other commands wait as long as it takes."""


def call_or_do_alone(
    home: Home,
    command: str,
    arguments: dict[str, Any],
    show: Show,
    *,
    network_file: Path | None,
    fallback_network_file: Path | None,
    run: Callable[[Coroutine[Any, Any, None]], object],
    on_connected: Callable[[socket.socket], None] | None = None,
) -> None:
    """Do one command and show each event; `run` gives the client an event loop.

    A network file that is asked for is the client's: the running peer may be in another network.
    """
    if network_file is None:
        try:
            call(
                home,
                command,
                arguments,
                show,
                first_answer_s=FIRST_ANSWER_S.get(command),
                on_connected=on_connected,
            )
        except (NoPeerRunning, PeerSilent):
            pass
        else:
            return
    files = (network_file, fallback_network_file)
    run(_do_alone(home.path, command, arguments, show, files))


async def _do_alone(
    home: Path,
    command: str,
    arguments: dict[str, Any],
    show: Show,
    files: tuple[Path | None, Path | None],
) -> None:
    from peer.options import AloneOptions

    async def emit(event: dict[str, Any]) -> None:
        show(event)

    options = AloneOptions(home, *files)
    if command == "doctor":
        from peer.doctor import examine_alone

        await examine_alone(options, arguments, emit)
        return
    from peer.node import run_command_alone

    await run_command_alone(options, command, arguments, emit)
