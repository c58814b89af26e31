"""Draw the live table as SVG for the documentation: the real code, with sample views.

Usage: table_svg.py OUT
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from console.table import table_of
from peer.views import PeerState, PeerView, Snapshot, StatusView, TransferView, utc_seconds

_NOW = "2026-11-22T12:00:00Z"
_WIDTH = 100


def sample() -> Snapshot:
    """A peer of a small class network, in the middle of things."""
    status = StatusView(
        id="k5ta7q3mzd2xw4yfh6jplc3vbn5es2gr",
        nickname="ada",
        address="192.0.2.10:4100",
        network="class-2026",
        pid=4242,
        peers_active=3,
        peers_known=4,
        shares=12,
        uptime_s=7521.0,
        private=True,
        mailbox=True,
        queue=None,
        version="",
    )
    peers = (
        _peer("bob", "f3xq", "192.0.2.11:4100", 1.2),
        _peer("carol", "m7za", "192.0.2.12:4100", 2.4),
        _peer("dave", "q2rt", "198.51.100.7:4100", 18.9),
        _peer("erin", "w5cd", "192.0.2.14:4100", None, last_seen="2026-11-22T09:47:00Z"),
    )
    transfers = (
        TransferView("lecture-07.mp4", "download", 412_000_000, 734_000_000, 96_500_000.0, 3),
        TransferView("thesis.pdf", "upload", 1_800_000, 2_400_000, 1_100_000.0, 2),
    )
    return Snapshot(status=status, peers=peers, transfers=transfers, invite="shoal1-…")


def _peer(
    name: str, prefix: str, address: str, rtt_ms: float | None, last_seen: str = _NOW
) -> PeerView:
    state = PeerState.INACTIVE if rtt_ms is None else PeerState.ACTIVE
    return PeerView(f"{prefix}{'a2b3c4d5' * 4}"[:32], name, address, state, last_seen, rtt_ms)


def _without_web_fonts(svg: str) -> str:
    """Take out the fonts that rich would load from elsewhere: the reader's own will do."""
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace(
        "Fira Code, monospace", "monospace"
    )


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(table_of(sample(), wall_s=utc_seconds(_NOW)))
    # A fixed id, so that the same table is the same file.
    svg = console.export_svg(title="shoal join", unique_id="shoal-table")
    Path(sys.argv[1]).write_text(_without_web_fonts(svg))
    return 0


if __name__ == "__main__":
    sys.exit(main())
