# ruff: noqa: N818 - errors are named by what a person would say went wrong
"""What can go wrong between this peer's gRPC and another's.

Owns: telling apart nobody there, somebody of another network, and the wrong somebody.
Must not know: what the calls are about.
"""

from identity.errors import ShoalError


class RpcError(ShoalError):
    """The call to another peer failed."""


class CannotListen(RpcError):
    """This address cannot be listened on."""

    hint = "choose another address with --listen HOST:PORT"


class PortInUse(CannotListen):
    """The port is in use."""

    hint = "choose another port with --listen HOST:PORT, or 0 for any that is free"


class Unreachable(RpcError):
    """The peer does not answer."""

    hint = "check that it runs, and that firewalls let its TCP and UDP port through"


class ForeignNetwork(RpcError):
    """The peer that answers belongs to another network."""

    hint = "check that both peers were started with the same network and key"


class WrongPeer(RpcError):
    """Another peer than the one asked for answers."""

    hint = "its address may have passed to somebody else; try again in a minute"


class Unauthenticated(RpcError):
    """The caller's certificate does not prove who it is."""
