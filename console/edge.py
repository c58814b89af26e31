"""The edge of the process: whatever went wrong becomes one line, one hint and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Protocol

from console.text import escape


class ReaderGone(Exception):  # noqa: N818 - no error, and nothing to report
    """Whoever read stdout has closed it."""


class Words(Protocol):
    """What a person is told about a failure."""

    hint: str

    @property
    def message(self) -> str: ...

    @property
    def code(self) -> int: ...


def run_to_exit_code(
    run: Callable[[], object],
    words_of: Callable[[BaseException], Words],
    *,
    verbose: Callable[[], bool],
) -> int:
    """Run a command line; a traceback is shown only when ``verbose``."""
    try:
        code = run()
        sys.stdout.flush()
    except (BrokenPipeError, ReaderGone):
        return _quiet_end()
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - the edge of the process
        return _tell(error, words_of(error), verbose=verbose())
    return code if isinstance(code, int) else 0


def _tell(error: BaseException, words: Words, *, verbose: bool) -> int:
    lines = [f"shoal: {escape(words.message)}"]
    if words.hint:
        lines.append(f"hint: {escape(words.hint)}")
    try:
        if verbose:
            import traceback

            traceback.print_exception(error)
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
    except OSError:
        pass  # nobody listens; the exit code still tells
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _quiet_end()
    return int(words.code)


def _quiet_end() -> int:
    """The reader of stdout went away, as `| head` does: that is its right, and no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
