"""`peers --watch`: the live table on a terminal, else the list again whenever it changes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from console.output import Output, is_terminal
from peer.views import snapshot_from_json, to_json

_PAUSE_S = 0.5


def watch_peers(output: Output, ask: Callable[[], Mapping[str, Any]], *, plain: bool) -> None:
    """Show what ``ask`` answers until interrupted; ``plain`` keeps to lines on a terminal too."""
    if plain or not is_terminal(sys.stdout):
        _watch_lines(output, ask)
        return
    from console.table import LiveTable

    table = LiveTable(sys.stdout)
    table.start()
    try:
        while True:
            table.update(snapshot_from_json(ask()))
            time.sleep(_PAUSE_S)
    finally:
        table.stop()


def _watch_lines(output: Output, ask: Callable[[], Mapping[str, Any]]) -> None:
    shown: object = None
    while True:
        peers = snapshot_from_json(ask()).peers
        state = [(peer.id, peer.nickname, peer.address, peer.state) for peer in peers]
        if state != shown:
            shown = state
            for peer in peers:
                output.show("peers", to_json(peer))
            output.close()
        time.sleep(_PAUSE_S)
