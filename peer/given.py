"""What a person gives a command: addresses, paths, secrets by stdin or file, and signals.

Owns making these usable wherever and whenever the command is done. Standard library only.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peer.failures import ExitCode, Failure

if TYPE_CHECKING:
    import asyncio

    from identity.address import Address

_SECRET_BYTES_MAX = 65536
_DEFAULT_PORT = 4100
_LEAVE_TIMEOUT_S = 9.5


def parse_address(text: str) -> Address:
    """Read HOST:PORT, the port 4100 when left out; ValueError says what is wrong."""
    return _address(text, _DEFAULT_PORT)


def parse_listen(text: str) -> Address:
    """Read HOST:PORT where we are to listen: there, and nowhere else, port 0 takes any."""
    host, _, port = text.rpartition(":")
    return _address(host, 0) if host and port == "0" else parse_address(text)


def parse_advertised(text: str) -> Address:
    """Read HOST[:PORT]; the port 0 stands for the one that we listen on."""
    return _address(text, 0)


def _address(text: str, default_port: int) -> Address:
    from identity.address import Address
    from identity.errors import InvalidAddress

    try:
        return Address.parse(text, default_port=default_port)
    except InvalidAddress as error:
        raise ValueError(str(error)) from error


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse bytes that are no UTF-8: as lone surrogates they could be neither sent nor shown."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise Failure(
                f"an argument is not valid UTF-8: {argument!r}",
                hint="rename the file, or use a UTF-8 locale",
                exit_code=ExitCode.USAGE,
            ) from None


def check_stdin_put(paths: Sequence[Path], name: str | None) -> None:
    """Refuse a `put -` beside other files, or without the name that stdin does not have."""
    if len(paths) > 1:
        raise Failure(
            "`-` is stdin, and cannot be put beside other files",
            hint="put it by itself; a file of that name is ./-",
            exit_code=ExitCode.USAGE,
        )
    if name is None:
        raise Failure(
            "what comes on stdin has no name",
            hint="shoal put - --as NAME; a file of that name is ./-",
            exit_code=ExitCode.USAGE,
        )


def absolute(path: Path | str) -> Path:
    """Make a path good in every folder; a link stays a link, it is used under its own name."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def read_join(given: Mapping[str, Any]) -> dict[str, Any]:
    """Take a join's secrets from where they were put, and make its paths good in every folder."""
    network_file = given["network_file"]
    return {
        **given,
        "invite": read_invite(given["invite"]),
        "queue": read_secret(given["queue"]),
        "shares": tuple(absolute(path) for path in given["shares"]),
        "network_file": None if network_file is None else absolute(network_file),
    }


def get_target(output: str | None, *, overwrite: bool) -> tuple[str, str | None]:
    """Where a get writes: the folder, and the absolute target, None for the file's own name."""
    if output is None or output == "-":
        return str(Path.cwd()), None
    path = absolute(output)
    if path.is_dir():
        return str(path), None
    if os.path.lexists(path) and not overwrite:
        raise Failure(
            f"{path} is there already", hint="--overwrite replaces it", exit_code=ExitCode.USAGE
        )
    return str(path.parent), str(path)


def read_invite(invite: str | None) -> str | None:
    """The invite itself, or the first line of stdin for ``-``."""
    if invite != "-":
        return invite
    line = sys.stdin.readline(_SECRET_BYTES_MAX).strip()
    if not line:
        raise Failure("stdin holds no invite", exit_code=ExitCode.USAGE)
    return line


def read_secret(value: str | None) -> str | None:
    """The value itself, or what stands in FILE for ``@FILE``; an empty value is none."""
    if not value or not value.startswith("@"):
        return value or None
    path = Path(value[1:])
    try:
        with path.open("rb") as file:
            return file.read(_SECRET_BYTES_MAX).decode().strip() or None
    except UnicodeDecodeError as error:
        raise Failure(f"{path} is not UTF-8 text", exit_code=ExitCode.USAGE) from error


def leave_on_signals(leaving: asyncio.Event) -> None:
    """Let SIGINT and SIGTERM ask for a clean leave, and a second one end the process at once.

    So does the end of the terminal (SIGHUP), unless whoever started us had it ignored (nohup).
    A clean leave that hangs is cut short, so that a service manager never has to kill us.
    """
    import asyncio

    loop = asyncio.get_running_loop()

    def leave() -> None:
        if leaving.is_set():
            os._exit(ExitCode.INTERRUPTED)
        leaving.set()
        timer = threading.Timer(_LEAVE_TIMEOUT_S, _cut_short)
        timer.daemon = True
        timer.start()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
            continue
        loop.add_signal_handler(number, leave)


def _cut_short() -> None:
    sys.stderr.write(f"shoal: the leave took longer than {_LEAVE_TIMEOUT_S} s and was cut short\n")
    sys.stderr.flush()
    os._exit(ExitCode.INTERNAL)
