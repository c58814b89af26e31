"""The root of every error that a person may read, and identity's own errors.

Owns: the rule that ``str(error)`` is one plain line, without a capital at its beginning or a stop
at its end since it follows "shoal: ", and that ``hint`` says what to do about it.
Must not know: exit codes, terminals, or which package raises what.
"""

# ruff: noqa: N818 - errors are named by what a person would say went wrong

import inspect


class ShoalError(Exception):
    """Something went wrong."""

    hint: str = ""

    def __init__(self, message: str | None = None, *, hint: str | None = None) -> None:
        super().__init__(message if message is not None else _first_line(type(self)))
        if hint is not None:
            self.hint = hint


class IdentityError(ShoalError):
    """An identity, a network or a certificate is not usable."""


class InvalidPeerId(IdentityError):
    """This is not a peer id."""

    hint = "a peer id is 32 characters of a-z and 2-7, as `shoal status` prints it"


class InvalidAddress(IdentityError):
    """This is not an address."""

    hint = "write HOST:PORT, or [IPV6]:PORT"


class BadKeyFile(IdentityError):
    """A key file is not usable."""

    hint = "restore the file from a copy; it is never overwritten"


class BadNetworkFile(IdentityError):
    """The network file is malformed."""

    hint = "`shoal network new NAME` writes a correct one"


class BadInvite(IdentityError):
    """This invite is damaged or incomplete."""

    hint = "copy the whole invite again; `shoal invite` prints it"


class ForeignCertificate(IdentityError):
    """The certificate does not belong to this network."""

    hint = "check that both peers were started with the same network and key"


def _first_line(kind: type[ShoalError]) -> str:
    """The docstring as it follows "shoal: ": no capital but a name's or an acronym's."""
    document = inspect.getdoc(kind) or kind.__name__
    line = document.splitlines()[0].rstrip(".")
    word = line.split()[0]
    return line if word[1:] != word[1:].lower() else line[0].lower() + line[1:]
