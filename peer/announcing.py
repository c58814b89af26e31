"""Telling others of a download while it runs, so that they fetch from it what it already has.

Owns the `content` record of what is being fetched: published when the download knows the file's
chunks, withdrawn when it ends, unless the file is shared by then. Must not know chunks.
"""

from __future__ import annotations

from dht.records import ContentPayload
from peer.background import Background
from peer.core import Core
from peer.sharing import Sharing


class Announcing:
    """The downloads of one running peer that others may know of."""

    def __init__(self, core: Core, sharing: Sharing, background: Background) -> None:
        self._core = core
        self._sharing = sharing
        self._background = background
        self._told: set[bytes] = set()

    def begin(self, content_id: bytes) -> None:
        """Publish in the background that a part of a content is here."""
        if content_id not in self._told:
            self._told.add(content_id)
            self._background.start(self._publish(content_id))

    def end(self, content_id: bytes) -> None:
        """Withdraw that in the background, unless it is shared."""
        if content_id in self._told:
            self._told.discard(content_id)
            self._background.start(self._withdraw(content_id))

    async def withdraw_former(self) -> None:
        """Withdraw what a former run told of its downloads and could not take back."""
        for payload in self._core.dht.schedule.payloads():
            if isinstance(payload, ContentPayload):
                await self._withdraw(payload.content_id)

    async def _publish(self, content_id: bytes) -> None:
        await self._core.dht.publish([self._payload(content_id)])
        await self._withdraw(content_id)  # when it ended meanwhile

    async def _withdraw(self, content_id: bytes) -> None:
        if content_id not in self._told and not self._core.catalog.shares_of(content_id):
            await self._core.dht.withdraw([self._payload(content_id)])

    def _payload(self, content_id: bytes) -> ContentPayload:
        return ContentPayload(content_id, self._sharing.addresses)
