"""Errors of the transfer package: each docstring is the line that a person reads.

Owns what can go wrong with names, files, holders and receivers. Knows no exit codes.
"""

# ruff: noqa: N818 - errors are named by what a person would say went wrong

from typing import TYPE_CHECKING

from identity.errors import ShoalError

if TYPE_CHECKING:
    from transfer.manifest import TreeManifest


class TransferError(ShoalError):
    """The transfer failed."""


class UnsafeName(TransferError):
    """The file name is not safe to store."""

    hint = "give the file another name with --as"


class UnsafeTree(UnsafeName):
    """The folder holds something that is not safe to store."""

    hint = "who shares the folder can rename it or take it out"


class TreeTooLarge(TransferError):
    """The folder is larger than a tree can describe."""

    hint = "put its parts one by one, or an archive of it"


class IsFolder(TransferError):
    """The content is a folder."""

    hint = "fetch it to a path: a folder is no single file"

    def __init__(self, manifest: "TreeManifest | None" = None) -> None:
        super().__init__()
        self.manifest = manifest


class BadContentId(TransferError):
    """That is not a content id."""

    hint = "a content id is b3: and 64 hexadecimal characters"


class BadManifest(TransferError):
    """The manifest is malformed or of a kind that this version does not know."""


class FileTooLarge(TransferError):
    """The file is larger than a manifest can describe (1 TiB)."""


class SourceUnreadable(TransferError):
    """The file cannot be read."""


class SourceChanged(TransferError):
    """The source changed while it was read."""

    hint = "put it again once nothing writes to it"


class NoHolders(TransferError):
    """No holder of this content could be reached."""

    hint = "run it again later: what was fetched is kept and the rest is resumed"


class BadContent(TransferError):
    """The content did not verify: every holder that answered sent other bytes."""

    hint = "what verified is kept; try again when another holder is there"


class TimedOut(TransferError):
    """The transfer did not end in time."""

    hint = "run it again: what was fetched is kept"


class TargetExists(TransferError):
    """The target exists."""

    hint = "choose another with -o, or replace it with --overwrite"


class TargetBusy(TransferError):
    """Another get is writing this target."""


class TargetUnwritable(TransferError):
    """The target cannot be written."""

    hint = "choose a folder that you may write to with -o"


class DiskFull(TransferError):
    """The disk is full."""

    hint = "make room and run it again: what was fetched is kept"


class QuotaFull(TransferError):
    """The inbox has reached its quota."""

    hint = "the receiver can take files out of the inbox, or raise inbox.quota_bytes"


class Refused(TransferError):
    """The receiver refused the file."""

    hint = "the receiver decides with inbox.accept and its contacts who may send"


class PushFailed(TransferError):
    """The connection to the receiver broke."""

    hint = "send it again: the receiver keeps what arrived"


class ReceiverFull(TransferError):
    """The receiver has no room for the file."""

    hint = "the receiver can take files out of the inbox, or raise inbox.quota_bytes"
