"""The one gRPC listener of a peer, shared by all its services.

Owns: the server, its mutual TLS, and the guard that lets only proven members in.
Must not know: which services there are.
"""

import asyncio
import contextlib
import errno
import socket

import grpc

from identity.address import PORT_MAX, Address, ip_of
from identity.network import Network
from identity.tls import TlsMaterial
from rpc.allocator import keep_freed_memory
from rpc.caller import GuardedHandler
from rpc.config import RpcConfig, server_options
from rpc.errors import CannotListen, PortInUse


class RpcListener:
    """Serves the handlers added before `start`, until `stop`."""

    def __init__(
        self,
        tls: TlsMaterial,
        network: Network,
        config: RpcConfig = RpcConfig(),  # noqa: B008
    ) -> None:
        self._tls = tls
        self._network = network
        self._config = config
        self._handlers: list[grpc.GenericRpcHandler] = []
        keep_freed_memory()
        self._server: grpc.aio.Server | None = None

    def add(self, handler: grpc.GenericRpcHandler) -> None:
        """Serve one more service; before `start` only."""
        assert self._server is None, "services are added before the listener starts"
        self._handlers.append(GuardedHandler(handler, self._network))

    async def start(self, host: str, port: int) -> int:
        """Listen, and return the port, which 0 leaves to the system.

        Raises PortInUse, or CannotListen when the host is no address of this machine.
        """
        assert self._server is None, "a listener starts once"
        if not 0 <= port <= PORT_MAX:
            raise CannotListen(f"the port must be 0 to {PORT_MAX}, not {port}")
        await _check_free(host, port)
        server = grpc.aio.server(
            handlers=self._handlers,
            options=server_options(self._config),
            maximum_concurrent_rpcs=self._config.concurrent_calls_max,
        )
        try:
            bound = server.add_secure_port(str(Address(host, port)), self._credentials())
        except RuntimeError as error:  # somebody took the port since we looked
            await server.stop(None)
            raise PortInUse(f"cannot listen on {Address(host, port)}") from error
        await server.start()
        self._server = server
        return bound

    async def stop(self, grace_s: float = 1.0) -> None:
        """Take no more calls, and end those that run after the grace. May be called again."""
        if self._server is not None:
            await self._server.stop(grace_s)

    def _credentials(self) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [(self._tls.private_key_pem, self._tls.certificate_pem)],
            root_certificates=self._tls.ca_pem,
            require_client_auth=True,
        )


async def _check_free(host: str, port: int) -> None:
    """Try the address with a plain socket first: gRPC tells neither errno nor cause, and logs."""
    address = Address(host, port)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, target in found:
            with contextlib.closing(socket.socket(family, kind, protocol)) as attempt:
                # As gRPC does, so that connections in TIME_WAIT do not count as a listener.
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6 and (ip_of(host) is None or not _is_wildcard(host)):
                    attempt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                attempt.bind(target)
                attempt.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} is in use on {host}") from error
        raise CannotListen(f"cannot listen on {address}: {error.strerror or error}") from error
    except ValueError as error:  # a host that not even the resolver takes
        raise CannotListen(f"cannot listen on {address}") from error


def _is_wildcard(host: str) -> bool:
    ip = ip_of(host)
    return ip is not None and ip.is_unspecified
