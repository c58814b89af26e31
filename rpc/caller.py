"""Who calls: the peer behind a call that reached our listener.

Owns: the way from a call's TLS certificate to a peer id, and the guard before every service.
Must not know: what a caller may do; that is for the service.
"""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import grpc

from identity.errors import ForeignCertificate
from identity.network import Network
from identity.tls import verify_leaf
from rpc.errors import Unauthenticated

CALLERS_MAX = 1_024

AnyContext = grpc.aio.ServicerContext[Any, Any]
# Quoted: generic in the stubs only.
AnyHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour = Callable[[Any, AnyContext], Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """A member of the network, proven by its certificate."""

    peer_id: bytes
    public_key: bytes


def caller_of(context: AnyContext, network: Network) -> Caller:
    """Return the peer that makes this call.

    Raises Unauthenticated, with the call's status set, when the certificate's binding does not
    hold. Handlers added to an RpcListener are only reached by callers for whom it does.
    """
    try:
        certificates = tuple(context.auth_context().get("x509_pem_cert", ()))
        if len(certificates) != 1:
            raise ForeignCertificate("the caller shows no certificate")
        return _caller(certificates[0], network)
    except ForeignCertificate as error:
        context.set_code(grpc.StatusCode.UNAUTHENTICATED)
        context.set_details(str(error))
        raise Unauthenticated(str(error)) from error


@lru_cache(maxsize=CALLERS_MAX)
def _caller(certificate_pem: bytes, network: Network) -> Caller:
    peer_id, public_key = verify_leaf(certificate_pem, network)
    return Caller(peer_id, public_key)


class GuardedHandler(grpc.GenericRpcHandler):
    """A service whose methods are only reached by callers that proved who they are.

    gRPC itself checks that the authority signed a caller's leaf. Every member can do that, so
    without this guard a member could call under any name.
    """

    def __init__(self, inner: grpc.GenericRpcHandler, network: Network) -> None:
        self._inner = inner
        self._network = network

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "AnyHandler | None":
        """Return the guarded method, or None when the service has no such method."""
        handler = self._inner.service(handler_call_details)
        return None if handler is None else _guarded(handler, self._network)


async def _refuse_stranger(context: AnyContext, network: Network) -> None:
    try:
        caller_of(context, network)
    except Unauthenticated as error:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))


def _guarded(handler: AnyHandler, network: Network) -> AnyHandler:
    # The stubs describe the threaded server's handlers; those of the aio server return awaitables.
    make: Any
    inner: Any
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            make, inner = grpc.unary_unary_rpc_method_handler, handler.unary_unary
        case False, True:
            make, inner = grpc.unary_stream_rpc_method_handler, handler.unary_stream
        case True, False:
            make, inner = grpc.stream_unary_rpc_method_handler, handler.stream_unary
        case _:
            make, inner = grpc.stream_stream_rpc_method_handler, handler.stream_stream
    behaviour = _guarded_generator if inspect.isasyncgenfunction(inner) else _guarded_coroutine
    guarded: AnyHandler = make(
        behaviour(inner, network),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return guarded


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """End a call whose caller went away while something was written to it, as gRPC ends others.

    gRPC raises an error of its own then, and would log it: once for each reader that leaves.
    """
    try:
        yield
    except grpc.aio.InternalError as error:
        raise asyncio.CancelledError from error


def _guarded_coroutine(inner: Behaviour, network: Network) -> Callable[..., Awaitable[Any]]:
    async def guarded(request: Any, context: AnyContext) -> Any:
        await _refuse_stranger(context, network)
        with _quietly():
            return await inner(request, context)

    return guarded


def _guarded_generator(inner: Behaviour, network: Network) -> Callable[..., AsyncIterator[Any]]:
    async def guarded(request: Any, context: AnyContext) -> AsyncIterator[Any]:
        await _refuse_stranger(context, network)
        async with contextlib.aclosing(inner(request, context)) as responses:
            with _quietly():
                async for response in responses:
                    yield response

    return guarded
