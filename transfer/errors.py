"""Errors of the transfer package: each docstring is the line that a person reads.

Owns what can go wrong with names, files, holders and receivers. Knows no exit codes.
"""

# ruff: noqa: N818 - errors are named by what a person would say went wrong

from identity.errors import ShoalError


class TransferError(ShoalError):
    """the transfer failed"""


class UnsafeName(TransferError):
    """the file name is not safe to store"""

    hint = "give the file another name with --as"


class BadContentId(TransferError):
    """not a content id"""

    hint = "a content id is b3: and 64 hexadecimal characters"


class BadManifest(TransferError):
    """the manifest is malformed or of a kind that this version does not know"""


class FileTooLarge(TransferError):
    """the file is larger than a manifest can describe (1 TiB)"""


class SourceUnreadable(TransferError):
    """the file cannot be read"""


class SourceChanged(TransferError):
    """the source changed while it was read"""

    hint = "put it again once nothing writes to it"


class NoHolders(TransferError):
    """no holder of this content could be reached"""

    hint = "run it again later: what was fetched is kept and the rest is resumed"


class BadContent(TransferError):
    """the content did not verify: every holder that answered sent other bytes"""

    hint = "what verified is kept; try again when another holder is there"


class TimedOut(TransferError):
    """the transfer did not end in time"""

    hint = "run it again: what was fetched is kept"


class TargetExists(TransferError):
    """the target exists"""

    hint = "choose another with -o, or replace it with --overwrite"


class TargetBusy(TransferError):
    """another get is writing this target"""


class TargetUnwritable(TransferError):
    """the target cannot be written"""

    hint = "choose a folder that you may write to with -o"


class DiskFull(TransferError):
    """the disk is full"""

    hint = "make room and run it again: what was fetched is kept"


class QuotaFull(TransferError):
    """the inbox has reached its quota"""

    hint = "the receiver can take files out of the inbox, or raise inbox.quota_bytes"


class Refused(TransferError):
    """the receiver refused the file"""

    hint = "the receiver decides with inbox.accept and its contacts who may send"


class PushFailed(TransferError):
    """the connection to the receiver broke"""

    hint = "send it again: the receiver keeps what arrived"


class ReceiverFull(TransferError):
    """the receiver has no room for the file"""

    hint = "the receiver can take files out of the inbox, or raise inbox.quota_bytes"
