"""What other peers may take from this one, and who may bring something.

Owns the answers to "what is offered here" (shares, and downloads under way) and "who may send
here". Must not know gRPC or how a file is cut to chunks.
"""

from __future__ import annotations

from pathlib import Path

from identity.network import Network
from peer.background import Background
from peer.catalog import Catalog, Share
from peer.config import Config, InboxAccept
from peer.contacts import Contacts
from peer.fetching import Fetching
from peer.sharing import Sharing, why_changed
from transfer.hashing import Fingerprint
from transfer.manifest import decode_manifest
from transfer.sources import Source


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
                return _source_of(share)
            self.source_changed(content_id, share.path)
        download = self._fetching.running.get(content_id)
        source = None if download is None else download.source()
        # With no good copy the caller is to hear that it changed, not that it never was here.
        return source or (_source_of(shares[0]) if shares else None)

    def source_changed(self, content_id: bytes, path: Path) -> None:
        """Stop offering a changed file and withdraw its records, in the background."""
        self._background.start(self._sharing.drop_changed(content_id, path))


def _source_of(share: Share) -> Source:
    fingerprint = Fingerprint(share.size_bytes, share.mtime_ns, share.inode)
    return Source(share.path, decode_manifest(share.manifest), fingerprint)


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
