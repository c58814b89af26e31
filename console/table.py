"""The live table of a running peer: who is there, what moves, and how somebody joins.

`table_of` turns a snapshot into something rich can draw, with no state; `LiveTable` redraws it in
place. Every remote string is escaped and handed on as Text, never as markup.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from console.text import escape, human_ago, human_size, human_span, plural
from peer.views import PeerState, PeerView, Snapshot, StatusView, TransferView

_PEERS_MAX = 24
_TRANSFERS_MAX = 10
_SHORT_ID_CHARS = 8


class LiveTable:
    """Draws snapshots over one another; the caller decides when."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, markup=False, highlight=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def start(self) -> None:
        self._live.start()

    def update(self, snapshot: Snapshot) -> None:
        self._live.update(table_of(snapshot, wall_s=time.time()), refresh=True)

    def say(self, line: str) -> None:
        """Print a line above the table."""
        self._console.print(Text(line))

    def stop(self) -> None:
        self._live.stop()


def table_of(snapshot: Snapshot, *, wall_s: float) -> RenderableType:
    """Lay out one snapshot; ``wall_s`` is the Unix time against which "seen" is shown."""
    parts: list[RenderableType] = [_heading(snapshot.status), _peers(snapshot.peers, wall_s)]
    if snapshot.transfers:
        parts.append(_transfers(snapshot.transfers))
    if snapshot.invite:
        parts.append(Text.assemble(("to join:  ", "bold"), f"shoal join {escape(snapshot.invite)}"))
    parts.append(Text("Ctrl-C or `shoal leave` ends this peer", style="dim"))
    title = Text.assemble(" shoal · ", (escape(snapshot.status.network), "bold"), " ")
    return Panel(Group(*parts), title=title, title_align="left", border_style="cyan")


def _heading(status: StatusView) -> RenderableType:
    grid = Table.grid(expand=True)
    grid.add_column()
    grid.add_column(justify="right")
    who = Text.assemble(
        (escape(status.nickname), "bold"),
        f"  {escape(status.id[:_SHORT_ID_CHARS])}  {escape(status.address)}",
    )
    counts = Text.assemble(
        (f"{status.peers_active} active", "green"),
        f" of {plural(status.peers_known, 'peer')} · {plural(status.shares, 'share')}",
    )
    kind = "private network" if status.private else "open network"
    extras = [kind, *(["mailbox"] if status.mailbox else [])]
    if status.queue:
        extras.append(f"queue {escape(status.queue)}")
    grid.add_row(who, counts)
    grid.add_row(
        Text(" · ".join(extras), style="dim"),
        Text(f"up {human_span(status.uptime_s)}", style="dim"),
    )
    return grid


def _peers(peers: Sequence[PeerView], wall_s: float) -> RenderableType:
    if not peers:
        return Text("\nno other peer yet\n", style="dim")
    table = Table(box=SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column("peer", overflow="fold", ratio=3)
    table.add_column("id", no_wrap=True)
    table.add_column("address", overflow="fold", ratio=3)
    table.add_column("state", no_wrap=True)
    table.add_column("rtt", justify="right", no_wrap=True)
    table.add_column("seen", justify="right", no_wrap=True)
    ordered = sorted(peers, key=lambda peer: (peer.state != PeerState.ACTIVE, peer.nickname))
    for peer in ordered[:_PEERS_MAX]:
        active = peer.state == PeerState.ACTIVE
        table.add_row(
            Text(escape(peer.nickname) or "-"),
            Text(escape(peer.id[:_SHORT_ID_CHARS])),
            Text(escape(peer.address)),
            Text("● active" if active else "○ inactive", style="green" if active else "dim"),
            Text("-" if peer.rtt_ms is None else f"{peer.rtt_ms:.1f} ms"),
            Text(_seen(peer, wall_s)),
            style="" if active else "dim",
        )
    if len(ordered) > _PEERS_MAX:
        return Group(table, Text(f"and {len(ordered) - _PEERS_MAX} more", style="dim"))
    return table


def _seen(peer: PeerView, wall_s: float) -> str:
    if peer.state == PeerState.ACTIVE:
        return "now"
    return "-" if peer.last_seen is None else human_ago(peer.last_seen, wall_s)


def _transfers(transfers: Sequence[TransferView]) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, expand=True, pad_edge=False)
    table.add_column("transfer", overflow="fold", ratio=3)
    table.add_column("")
    table.add_column("done", ratio=2)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("peers", justify="right", no_wrap=True)
    for transfer in transfers[:_TRANSFERS_MAX]:
        table.add_row(
            Text(escape(transfer.name)),
            Text(escape(transfer.direction)),
            ProgressBar(total=max(1, transfer.size_bytes), completed=transfer.done_bytes),
            Text(human_size(transfer.size_bytes)),
            Text(f"{human_size(int(transfer.rate_bytes_per_s))}/s"),
            Text(str(transfer.peers)),
        )
    if len(transfers) > _TRANSFERS_MAX:
        return Group(table, Text(f"and {len(transfers) - _TRANSFERS_MAX} more", style="dim"))
    return table
