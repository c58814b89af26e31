"""Every error that Shoal can raise has an exit code that somebody chose, and that CLI.md names."""

import importlib
import pkgutil
from types import ModuleType

import pytest

from identity.errors import ShoalError
from peer.failures import EXIT_CODES, ExitCode, Failure, failure_of

PACKAGES = ("identity", "rpc", "dht", "transfer", "queueing", "peer", "console")

# What the command's contract says of causes, by the errors that stand for them.
CONTRACT = {
    "identity.errors.BadNetworkFile": 2,
    "identity.errors.BadInvite": 2,
    "identity.errors.InvalidAddress": 2,
    "identity.errors.InvalidPeerId": 2,
    "rpc.errors.PortInUse": 2,
    "dht.errors.PortInUse": 2,
    "transfer.errors.TargetExists": 2,
    "transfer.errors.SourceUnreadable": 2,
    "queueing.rabbitmq_url.BadAmqpUrl": 2,
    "peer.failures.AlreadyRunning": 2,
    "peer.errors.OtherNetwork": 2,
    "peer.errors.BadInput": 2,
    "peer.errors.NotFound": 3,
    "queueing.errors.UnknownDelivery": 3,
    "peer.errors.NoHolderReachable": 4,
    "transfer.errors.NoHolders": 4,
    "rpc.errors.Unreachable": 4,
    "transfer.errors.BadContent": 5,
    "transfer.errors.BadManifest": 5,
    "transfer.errors.SourceChanged": 5,
    "queueing.errors.SourceChanged": 5,
    "queueing.errors.BadEnvelope": 5,
    "queueing.errors.BadReceipt": 5,
    "peer.errors.WrongNetworkKey": 6,
    "identity.errors.ForeignCertificate": 6,
    "rpc.errors.ForeignNetwork": 6,
    "transfer.errors.Refused": 6,
    "transfer.errors.UnsafeName": 6,
    "queueing.errors.Refused": 6,
    "transfer.errors.DiskFull": 7,
    "transfer.errors.QuotaFull": 7,
    "transfer.errors.ReceiverFull": 7,
    "queueing.errors.MailboxFull": 7,
    "peer.errors.InboxFull": 7,
    "transfer.errors.TimedOut": 8,
    "peer.errors.TimedOut": 8,
    "peer.failures.NoPeerRunning": 9,
    "peer.errors.Ambiguous": 10,
    "queueing.errors.Unavailable": 11,
    "queueing.errors.Blocked": 11,
    "peer.errors.QueueUnavailable": 11,
}


def modules() -> list[ModuleType]:
    found = []
    for package in PACKAGES:
        root = importlib.import_module(package)
        found.append(root)
        names = [each.name for each in pkgutil.iter_modules(root.__path__, f"{package}.")]
        found.extend(importlib.import_module(name) for name in names)
    return found


def every_error() -> dict[str, type[ShoalError]]:
    assert modules()
    found: dict[str, type[ShoalError]] = {}
    waiting: list[type[ShoalError]] = [ShoalError]
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        path = f"{kind.__module__}.{kind.__qualname__}"
        if path.split(".")[0] in PACKAGES:
            found[path] = kind
    return found


def code_of(kind: type[ShoalError]) -> ExitCode:
    return failure_of(kind.__new__(kind)).exit_code  # the class decides, not the arguments


def test_each_error_of_a_package_stands_in_the_table_by_itself() -> None:
    errors = every_error()
    # A private class stays in its module; its family's code stands for it should it escape.
    public = [path for path, kind in errors.items() if not kind.__name__.startswith("_")]
    missing = [path for path in public if not issubclass(errors[path], Failure)]
    missing = sorted(path for path in missing if path not in EXIT_CODES)
    assert len(errors) > 60
    assert missing == []


def test_each_failure_of_the_peer_chose_its_code() -> None:
    silent = [
        path
        for path, kind in every_error().items()
        if issubclass(kind, Failure)
        and kind is not Failure
        and not any("exit_code" in vars(base) for base in kind.__mro__ if base is not Failure)
    ]
    assert silent == []


@pytest.mark.parametrize(("path", "code"), CONTRACT.items())
def test_cause_that_the_contract_names_has_its_code(path: str, code: int) -> None:
    assert code_of(every_error()[path]) == code


def test_only_bugs_are_internal_errors() -> None:
    internal = {path for path, kind in every_error().items() if code_of(kind) is ExitCode.INTERNAL}
    own = {path for path in internal if path.startswith("peer.")}
    assert internal - own == {"identity.errors.ShoalError", "dht.errors.NotListening"}
    assert own <= {"peer.failures.Failure", "peer.detach.StartFailed"}


def test_each_error_says_one_line_without_arguments_of_its_own() -> None:
    for path, kind in every_error().items():
        try:
            error = kind()
        except TypeError:
            continue  # it cannot be built without saying more
        assert str(error), path
        assert "\n" not in str(error) + error.hint, path
        # It follows "shoal: ".
        assert not str(error)[:2].istitle(), path
        assert not str(error).endswith("."), path
