"""Exit codes, and how an error of any package becomes one line, one hint and one code.

Owns the table from error classes to exit codes. Classes are named by their dotted path, so that
nothing is imported for errors that did not happen: local commands stay fast.
"""

from __future__ import annotations

import errno
from enum import IntEnum

from identity.errors import ShoalError


class ExitCode(IntEnum):
    """What a command's exit status says."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    NOT_FOUND = 3
    UNREACHABLE = 4
    UNVERIFIED = 5
    NOT_PERMITTED = 6
    FULL = 7
    TIMED_OUT = 8
    NO_PEER = 9
    AMBIGUOUS = 10
    QUEUE_UNAVAILABLE = 11
    INTERRUPTED = 130


class Failure(ShoalError):  # noqa: N818 - the word of the exit codes
    """The command failed."""

    exit_code: ExitCode = ExitCode.INTERNAL

    def __init__(
        self,
        message: str | None = None,
        *,
        hint: str | None = None,
        exit_code: ExitCode | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        if exit_code is not None:
            self.exit_code = exit_code

    @property
    def message(self) -> str:
        """The one line that a person reads."""
        return str(self)

    @property
    def code(self) -> int:
        """The exit code as a number."""
        return int(self.exit_code)


class NoPeerRunning(Failure):
    """No peer is running in this home."""

    hint = "start one with `shoal join`, or name its home with --home"
    exit_code = ExitCode.NO_PEER


class PeerSilent(Failure):
    """The running peer does not answer."""

    hint = "`shoal doctor` says which process it is"
    exit_code = ExitCode.TIMED_OUT


class AlreadyRunning(Failure):
    """A peer is already running in this home."""

    hint = "use another --home for a second peer, or end the first with `shoal leave`"
    exit_code = ExitCode.USAGE

    def __init__(self, pid: int | None) -> None:
        self.pid = pid
        process = "another process" if pid is None else f"process {pid}"
        super().__init__(f"a peer is already running in this home: {process}")


class HomeUnusable(Failure):
    """The home folder cannot be used."""

    hint = "name a folder that you may write to with --home"
    exit_code = ExitCode.USAGE


class BadConfig(Failure):
    """config.toml cannot be used."""

    hint = "correct the file, or take the line out to use the default"
    exit_code = ExitCode.USAGE


_CANCELLED = "asyncio.exceptions.CancelledError"

# Dotted class path → exit code. Every public ShoalError that is no Failure stands here by itself
# (a test walks them all); for the others the nearest class on the error's MRO decides.
EXIT_CODES: dict[str, ExitCode] = {
    "identity.errors.ShoalError": ExitCode.INTERNAL,
    "identity.errors.IdentityError": ExitCode.USAGE,
    "identity.errors.InvalidPeerId": ExitCode.USAGE,
    "identity.errors.InvalidAddress": ExitCode.USAGE,
    "identity.errors.BadKeyFile": ExitCode.USAGE,
    "identity.errors.BadNetworkFile": ExitCode.USAGE,
    "identity.errors.BadInvite": ExitCode.USAGE,
    "identity.errors.ForeignCertificate": ExitCode.NOT_PERMITTED,
    "rpc.errors.RpcError": ExitCode.UNREACHABLE,
    "rpc.errors.CannotListen": ExitCode.USAGE,
    "rpc.errors.PortInUse": ExitCode.USAGE,
    "rpc.errors.Unreachable": ExitCode.UNREACHABLE,
    "rpc.errors.ForeignNetwork": ExitCode.NOT_PERMITTED,
    "rpc.errors.WrongPeer": ExitCode.NOT_PERMITTED,
    "rpc.errors.Unauthenticated": ExitCode.NOT_PERMITTED,
    "dht.errors.DhtError": ExitCode.UNREACHABLE,
    "dht.errors.PortInUse": ExitCode.USAGE,
    "dht.errors.BadRecord": ExitCode.USAGE,
    "dht.errors.BadQuery": ExitCode.USAGE,
    "dht.errors.ScheduleFull": ExitCode.FULL,
    "dht.errors.BadMessage": ExitCode.UNREACHABLE,
    "dht.errors.NoAnswer": ExitCode.UNREACHABLE,
    "dht.errors.BusyStorer": ExitCode.UNREACHABLE,
    "dht.errors.BadAnswer": ExitCode.UNREACHABLE,
    "dht.errors.Dropped": ExitCode.UNREACHABLE,
    "dht.hello.BadHello": ExitCode.UNREACHABLE,
    "dht.errors.NotListening": ExitCode.INTERNAL,
    "transfer.errors.TransferError": ExitCode.UNREACHABLE,
    "transfer.errors.UnsafeName": ExitCode.NOT_PERMITTED,
    "transfer.errors.UnsafeTree": ExitCode.NOT_PERMITTED,
    "transfer.errors.TreeTooLarge": ExitCode.USAGE,
    "transfer.errors.IsFolder": ExitCode.USAGE,
    "transfer.errors.BadContentId": ExitCode.USAGE,
    "transfer.errors.BadManifest": ExitCode.UNVERIFIED,
    "transfer.errors.FileTooLarge": ExitCode.USAGE,
    "transfer.errors.SourceUnreadable": ExitCode.USAGE,
    "transfer.errors.SourceChanged": ExitCode.UNVERIFIED,
    "transfer.errors.NoHolders": ExitCode.UNREACHABLE,
    "transfer.errors.BadContent": ExitCode.UNVERIFIED,
    "transfer.errors.TimedOut": ExitCode.TIMED_OUT,
    "transfer.errors.TargetExists": ExitCode.USAGE,
    "transfer.errors.TargetBusy": ExitCode.USAGE,
    "transfer.errors.TargetUnwritable": ExitCode.USAGE,
    "transfer.errors.DiskFull": ExitCode.FULL,
    "transfer.errors.QuotaFull": ExitCode.FULL,
    "transfer.errors.ReceiverFull": ExitCode.FULL,
    "transfer.errors.Refused": ExitCode.NOT_PERMITTED,
    "transfer.errors.PushFailed": ExitCode.UNREACHABLE,
    "queueing.errors.QueueError": ExitCode.QUEUE_UNAVAILABLE,
    "queueing.errors.Unavailable": ExitCode.QUEUE_UNAVAILABLE,
    "queueing.errors.Blocked": ExitCode.QUEUE_UNAVAILABLE,
    "queueing.errors.MailboxFull": ExitCode.FULL,
    "queueing.errors.NoMailbox": ExitCode.UNREACHABLE,
    "queueing.errors.TooLarge": ExitCode.FULL,
    "queueing.errors.Refused": ExitCode.NOT_PERMITTED,
    "queueing.errors.NotPermitted": ExitCode.NOT_PERMITTED,
    "queueing.errors.Expired": ExitCode.TIMED_OUT,
    "queueing.errors.BadEnvelope": ExitCode.UNVERIFIED,
    "queueing.errors.BadReceipt": ExitCode.UNVERIFIED,
    "queueing.errors.SourceChanged": ExitCode.UNVERIFIED,
    "queueing.errors.StorageFailed": ExitCode.FULL,
    "queueing.errors.UnknownDelivery": ExitCode.NOT_FOUND,
    "queueing.errors.NotCancellable": ExitCode.USAGE,
    "queueing.rabbitmq_url.BadAmqpUrl": ExitCode.USAGE,
    "builtins.FileNotFoundError": ExitCode.USAGE,
    "builtins.PermissionError": ExitCode.USAGE,
    "builtins.IsADirectoryError": ExitCode.USAGE,
    "builtins.NotADirectoryError": ExitCode.USAGE,
    "builtins.FileExistsError": ExitCode.USAGE,
    "builtins.TimeoutError": ExitCode.TIMED_OUT,
    "builtins.KeyboardInterrupt": ExitCode.INTERRUPTED,
    _CANCELLED: ExitCode.INTERRUPTED,
}

_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_GROUP_DEPTH_MAX = 16


def failure_of(error: BaseException) -> Failure:
    """Turn any error into what the command prints and exits with."""
    error = _innermost(error)
    if isinstance(error, Failure):
        return error
    code = _exit_code(error)
    hint = getattr(error, "hint", "")
    if code is ExitCode.INTERNAL:
        hint = hint or "run again with -v to see where, and report it"
        message = f"internal error: {type(error).__name__}: {error}"
        if isinstance(error, ShoalError):
            message = str(error)
    elif isinstance(error, OSError):
        message = _os_message(error)
        if error.errno == errno.ENOSPC and error.filename:  # else it may be stdout, say
            message = f"the disk is full: {error.filename} cannot be written"
            hint = hint or "make room on it; nothing that was saved is lost"
    elif code is ExitCode.INTERRUPTED:
        message = "interrupted"
    else:
        message = str(error) or type(error).__name__
    return Failure(_one_line(message), hint=_one_line(hint), exit_code=code)


def _innermost(error: BaseException) -> BaseException:
    """Unwrap task groups: the first error that is not a mere cancellation is the cause."""
    for _ in range(_GROUP_DEPTH_MAX):
        if not isinstance(error, BaseExceptionGroup):
            break
        causes = [each for each in error.exceptions if _CANCELLED not in _paths(each)]
        error = (causes or list(error.exceptions))[0]
    return error


def _exit_code(error: BaseException) -> ExitCode:
    if isinstance(error, OSError) and error.errno in _FULL_ERRNOS:
        return ExitCode.FULL
    for path in _paths(error):
        code = EXIT_CODES.get(path)
        if code is not None:
            return code
    return ExitCode.INTERNAL


def _paths(error: BaseException) -> list[str]:
    """Name the classes of an error, nearest first."""
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]


def _os_message(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
