import asyncio
import errno
import importlib

import pytest

from identity.errors import BadInvite, ForeignCertificate, ShoalError
from peer.failures import EXIT_CODES, ExitCode, Failure, NoPeerRunning, failure_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInvite(), ExitCode.USAGE),
        (ForeignCertificate(), ExitCode.NOT_PERMITTED),
        (NoPeerRunning(), ExitCode.NO_PEER),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), ExitCode.USAGE),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.FULL),
        (TimeoutError(), ExitCode.TIMED_OUT),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (asyncio.CancelledError(), ExitCode.INTERRUPTED),
        (ValueError("odd\nthing"), ExitCode.INTERNAL),
    ],
)
def test_each_error_has_its_exit_code_and_one_line(error: BaseException, code: ExitCode) -> None:
    failure = failure_of(error)
    assert failure.exit_code is code
    assert failure.message
    assert "\n" not in failure.message + failure.hint


def test_group_of_errors_is_told_by_its_cause_not_by_the_cancelled() -> None:
    cause = Failure("the cause", exit_code=ExitCode.FULL)
    group = BaseExceptionGroup("", [asyncio.CancelledError(), ExceptionGroup("", [cause])])
    assert failure_of(group) is cause


def test_file_error_names_the_file() -> None:
    assert failure_of(PermissionError(13, "Permission denied", "/x/y")).message == (
        "/x/y: Permission denied"
    )


def test_every_class_in_the_table_exists() -> None:
    for path in EXIT_CODES:
        module, _, name = path.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), name), BaseException), path


@pytest.mark.parametrize("package", ["identity", "rpc", "dht", "transfer", "queueing"])
def test_no_error_of_a_package_is_an_internal_one_by_oversight(package: str) -> None:
    module = importlib.import_module(f"{package}.errors")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type)]
    errors = [k for k in kinds if issubclass(k, ShoalError) and k is not ShoalError]
    internal = [
        k.__name__ for k in errors if failure_of(k.__new__(k)).exit_code is ExitCode.INTERNAL
    ]
    assert len(errors) > 3
    assert internal == (["NotListening"] if package == "dht" else [])
