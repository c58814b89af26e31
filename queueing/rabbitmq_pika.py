"""pika's SelectConnection without most of its copies.

Owns what of pika is replaced, and why. Must not know queues or messages.

pika 1.4 cuts a body into frames and copies each three times on its way to the socket, and what a
socket took only a part of once more; inbound it reads 4 KiB at a time and copies the whole frame so
far at each read. Both are most of what publishing and consuming cost this process. Here a message
is put together once, and read in pieces of about a frame. The bytes on the wire are pika's own:
a test compares them with those of the stock class.
"""

import struct
from itertools import chain
from typing import Any

from pika import frame, spec
from pika.adapters.select_connection import SelectConnection

READ_BYTES = 128 * 1024
"""Of one read from the socket: RabbitMQ's largest frame, unless it is configured otherwise."""
READ_TURN_BYTES = 1024 * 1024
"""Read at most before publications and timers get their turn."""
_FRAME_HEADER = struct.Struct(">BHI")
_FRAME_END = bytes([spec.FRAME_END])


class Connection(SelectConnection):  # type: ignore[misc]
    """A SelectConnection that copies a message once on its way out, and less on its way in."""

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = READ_BYTES  # noqa: SLF001 - constants of pika's, no setting
        transport._MAX_CONSUME_BYTES = READ_TURN_BYTES  # noqa: SLF001
        super()._proto_connection_made(transport)

    def _send_message(
        self, channel_number: int, method_frame: Any, content: tuple[spec.BasicProperties, bytes]
    ) -> None:
        properties, body = content
        head = (
            frame.Method(channel_number, method_frame).marshal(),
            frame.Header(channel_number, len(body), properties).marshal(),
        )
        view, frame_bytes_max = memoryview(body), self._body_max_length
        pieces = (
            view[start : start + frame_bytes_max] for start in range(0, len(body), frame_bytes_max)
        )
        frames = (
            (_FRAME_HEADER.pack(spec.FRAME_BODY, channel_number, len(piece)), piece, _FRAME_END)
            for piece in pieces
        )
        # A view, since pika cuts off what the socket took: that of bytes would copy the rest.
        message = memoryview(b"".join(chain(head, *frames)))
        self._output_marshaled_frames([message])
