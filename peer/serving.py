"""What other peers may take from this one, and who may bring something.

Owns the answers to "what is offered here" (shares, and downloads under way) and "who may send
here", and how many may at a time. Must not know gRPC or how a file is cut to chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from identity.network import Network
from peer.background import Background
from peer.catalog import Catalog, Share
from peer.config import Config, InboxAccept, TransferConfig
from peer.contacts import Contacts
from peer.fetching import Fetching
from peer.sharing import Sharing, why_changed
from transfer.hashing import Fingerprint
from transfer.manifest import decode_manifest
from transfer.service import ServiceConfig
from transfer.sources import PackSource, Source


class Offered:
    """The Shares of the Transfer service: files of the catalog, then downloads under way."""

    def __init__(
        self, catalog: Catalog, fetching: Fetching, sharing: Sharing, background: Background
    ) -> None:
        self._catalog = catalog
        self._fetching = fetching
        self._sharing = sharing
        self._background = background

    def open_source(self, content_id: bytes) -> Source | None:
        """Return a file that holds a content; its fingerprint guards against change.

        Of several copies the first that is still what was shared; one that is not is dropped.
        """
        shares = self._catalog.shares_of(content_id)
        for share in shares:
            if why_changed(share) is None:
                return self._source_of(share)
            self.source_changed(content_id, share.path)
        download = self._fetching.running.get(content_id)
        source = None if download is None else download.source()
        source = source or self._sharing.trees.inner_source(content_id)
        source = source or self._fetching.inner_source(content_id)
        # With no good copy the caller is to hear that it changed, not that it never was here.
        return source or (self._source_of(shares[0]) if shares else None)

    def pack_sources(self, content_ids: Sequence[bytes]) -> list[PackSource | None]:
        """Return small files of shared folders, then of folders that are being fetched."""
        shared = self._sharing.trees.pack_sources(content_ids)
        return [
            shared.get(content_id) or self._fetching.inner_pack_source(content_id)
            for content_id in content_ids
        ]

    def source_changed(self, content_id: bytes, path: Path) -> None:
        """Stop offering a changed file and withdraw its records, in the background."""
        self._background.start(self._sharing.drop_changed(content_id, path))

    def _source_of(self, share: Share) -> Source:
        if share.is_folder:
            return self._sharing.trees.source_of(share)
        fingerprint = Fingerprint(share.size_bytes, share.mtime_ns, share.inode)
        return Source(share.path, decode_manifest(share.manifest), fingerprint)


def service_limits(config: TransferConfig, own_id: bytes) -> ServiceConfig:
    """Return the service's limits; rates are the core's."""
    return ServiceConfig(
        upload_slots_max=config.slots,
        upload_slots_per_peer_max=min(4, config.slots),
        own_id=own_id,
    )


class Acceptance:
    """Who may send files to this peer, or leave mail for others with it."""

    def __init__(self, config: Config, network: Network, contacts: Contacts) -> None:
        default = InboxAccept.NETWORK if network.is_private else InboxAccept.CONTACTS
        self.accept = config.inbox.accept or default
        self._contacts = contacts

    def refusal(self, sender: bytes) -> str | None:
        """Return why this sender's files are not taken, or None when they are."""
        match self.accept:
            case InboxAccept.NETWORK:
                return None
            case InboxAccept.CONTACTS:
                known = self._contacts.may_send(sender)
                return None if known else "the receiver takes files from its contacts only"
            case InboxAccept.NONE:
                return "the receiver takes no files"
