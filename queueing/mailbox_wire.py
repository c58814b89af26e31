"""What both sides of the Mailbox service share: method names, codecs, errors as status codes.

Owns the table between our errors and gRPC's codes. Must not know stores or policy.
"""

import dataclasses
import string
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from identity.errors import ShoalError
from queueing.errors import (
    BadEnvelope,
    BadReceipt,
    Expired,
    MailboxFull,
    NoMailbox,
    NotPermitted,
    QueueError,
    Refused,
    TooLarge,
    Unavailable,
    UnknownDelivery,
)

SERVICE = "shoal.v1.Mailbox"
IDS_MAX = 256
"""Delivery ids in one Receipts call."""
LISTED_MAX = 100
"""Deliveries in one page of List."""
CHALLENGES_MAX = 16
"""Chunks that one Audit call asks for."""
ENDED_MAX = 64
"""Deliveries in one Farewell or Moved call."""
_DETAILS_MAX = 200

# The first class of a code is what a code becomes; the others are only said with it.
_CODES: tuple[tuple[type[QueueError], grpc.StatusCode], ...] = (
    (TooLarge, grpc.StatusCode.OUT_OF_RANGE),
    (MailboxFull, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Refused, grpc.StatusCode.PERMISSION_DENIED),
    (NotPermitted, grpc.StatusCode.PERMISSION_DENIED),
    (NoMailbox, grpc.StatusCode.UNIMPLEMENTED),
    (Expired, grpc.StatusCode.FAILED_PRECONDITION),
    (BadEnvelope, grpc.StatusCode.INVALID_ARGUMENT),
    (BadReceipt, grpc.StatusCode.INVALID_ARGUMENT),
    (UnknownDelivery, grpc.StatusCode.NOT_FOUND),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
)
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")


@dataclasses.dataclass(frozen=True, slots=True)
class Undecodable:
    """Stands for a message that is not what its type says; the handler refuses it."""


def encode(message: Message) -> bytes:
    """Return the bytes of a message."""
    return message.SerializeToString()


def decoder(kind: type[Message]) -> Callable[[bytes], Any]:
    """Return a decoder of one message type that never raises; see `Undecodable`."""

    def decode(data: bytes) -> Message | Undecodable:
        message = kind()
        try:
            message.ParseFromString(data)
        except DecodeError:
            return Undecodable()
        return message

    return decode


def answering(
    handler: Callable[[_Request, Any], Awaitable[_Reply]],
) -> Callable[[_Request, Any], Awaitable[_Reply]]:
    """Wrap a handler so that our errors end the call with their status code."""

    async def answer(request: _Request, context: Any) -> _Reply:
        try:
            if isinstance(request, Undecodable):
                raise BadEnvelope("the request cannot be read")
            return await handler(request, context)
        except QueueError as error:
            await _abort(context, error)

    return answer


def error_of(error: grpc.aio.AioRpcError) -> QueueError:
    """Return our error for a failed call; remote text is cut and made plain."""
    details = "".join(
        letter for letter in (error.details() or "")[:_DETAILS_MAX] if letter in _PLAIN
    )
    for kind, code in _CODES:
        if code is error.code():
            return kind(details) if details else kind()
    return Unavailable(f"the mailbox did not answer: {error.code().name}")


def unavailable(error: ShoalError) -> QueueError:
    """Return a failure to connect as one of ours."""
    return Unavailable(str(error))


_PLAIN = frozenset(string.ascii_letters + string.digits + string.punctuation + " ")


async def _abort(context: Any, error: QueueError) -> NoReturn:
    codes = [code for kind, code in _CODES if isinstance(error, kind)]
    code = codes[0] if codes else grpc.StatusCode.INTERNAL
    await context.abort(code, str(error)[:_DETAILS_MAX])
    raise AssertionError("abort raises")
