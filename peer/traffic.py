"""The running transfers of this peer, for the live table.

Owns counting what goes out a (peer, content) and the rates of both directions. Must not know how
transfers work.
"""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict

from peer.core import Core
from peer.fetching import Fetching
from peer.views import Direction, TransferView
from transfer.manifest import show_content_id

UPLOADS_MAX = 256
UPLOAD_SHOWN_S = 3.0
RATE_WINDOW_S = 2.0
NAME_CHARS_SHOWN = 19


@dataclasses.dataclass(slots=True)
class _Flow:
    """One direction of one content: bytes so far, and at the start of the rate's window."""

    done_bytes: int = 0
    peers: OrderedDict[bytes, float] = dataclasses.field(default_factory=OrderedDict)
    """Peer id → when it was last sent something, the latest last."""
    last_at: float = 0.0
    window_at: float = 0.0
    window_bytes: int = 0
    rate_bytes_per_s: float = 0.0

    def at(self, done_bytes: int, now: float) -> None:
        """Take the bytes so far; the rate is that of the last whole window."""
        if self.window_at == 0.0:
            self.window_at, self.window_bytes = now, self.done_bytes
        self.done_bytes, self.last_at = done_bytes, now
        elapsed_s = now - self.window_at
        if elapsed_s >= RATE_WINDOW_S or (self.rate_bytes_per_s == 0.0 and elapsed_s > 0.2):
            self.rate_bytes_per_s = (done_bytes - self.window_bytes) / elapsed_s
            self.window_at, self.window_bytes = now, done_bytes


class Traffic:
    """Counts uploads as they are reported and looks at the downloads under way."""

    def __init__(self, core: Core, fetching: Fetching) -> None:
        self._core = core
        self._fetching = fetching
        self._uploads: OrderedDict[bytes, _Flow] = OrderedDict()
        self._downloads: dict[bytes, _Flow] = {}

    def uploaded(self, peer_id: bytes, content_id: bytes, size_bytes: int) -> None:
        """Count bytes that were just sent to a peer."""
        now = time.monotonic()
        flow = self._uploads.get(content_id)
        if flow is None or now - flow.last_at > UPLOAD_SHOWN_S:
            flow = self._uploads[content_id] = _Flow()
        self._uploads.move_to_end(content_id)
        while len(self._uploads) > UPLOADS_MAX:
            self._uploads.popitem(last=False)
        flow.peers[peer_id] = now
        flow.peers.move_to_end(peer_id)
        while now - next(iter(flow.peers.values())) > UPLOAD_SHOWN_S:
            flow.peers.popitem(last=False)
        flow.at(flow.done_bytes + size_bytes, now)

    def running(self) -> list[TransferView]:
        """Return the transfers under way, downloads first."""
        now = time.monotonic()
        views = [self._download_view(content_id, now) for content_id in self._fetching.running]
        self._downloads = {
            content_id: flow
            for content_id, flow in self._downloads.items()
            if content_id in self._fetching.running
        }
        views.extend(
            self._upload_view(content_id, flow)
            for content_id, flow in self._uploads.items()
            if now - flow.last_at <= UPLOAD_SHOWN_S
        )
        return views

    def _download_view(self, content_id: bytes, now: float) -> TransferView:
        download = self._fetching.running[content_id]
        progress = download.progress
        # Of a resumed download the rate is that of what is fetched now.
        flow = self._downloads.setdefault(content_id, _Flow(progress.fetched_bytes))
        flow.at(progress.fetched_bytes, now)
        return TransferView(
            name=download.target.name,
            direction=Direction.DOWNLOAD,
            done_bytes=progress.done_bytes,
            size_bytes=progress.size_bytes,
            rate_bytes_per_s=flow.rate_bytes_per_s,
            peers=len(progress.by_holder),
        )

    def _upload_view(self, content_id: bytes, flow: _Flow) -> TransferView:
        shares = self._core.catalog.shares_of(content_id)
        return TransferView(
            name=shares[0].name if shares else show_content_id(content_id)[:NAME_CHARS_SHOWN],
            direction=Direction.UPLOAD,
            done_bytes=flow.done_bytes,
            size_bytes=shares[0].size_bytes if shares else 0,
            rate_bytes_per_s=flow.rate_bytes_per_s,
            peers=len(flow.peers),
        )
