"""The bytes that leave are those of the stock class, and the constants replaced are pika's."""

from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import spec
from pika.adapters.select_connection import SelectConnection
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport, _AsyncSSLTransport

from queueing.rabbitmq_pika import READ_BYTES, Connection


class Recorded(Connection):
    """Keeps what it would send; was never connected."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._body_max_length = frame_bytes_max
        self.bytes_sent = self.frames_sent = 0
        self.sent: list[bytes] = []

    def _adapter_emit_data(self, data: Any) -> None:
        self.sent.append(bytes(data))


@given(body=st.binary(max_size=400), frame_bytes_max=st.integers(1, 120), channel=st.integers(1, 9))
def test_a_message_has_the_bytes_that_the_stock_class_sends(
    body: bytes, frame_bytes_max: int, channel: int
) -> None:
    method = spec.Basic.Publish(exchange="", routing_key="shoal.mail", mandatory=True)
    properties = pika.BasicProperties(delivery_mode=2, headers={"index": 3}, message_id="7")
    ours, stock = Recorded(frame_bytes_max), Recorded(frame_bytes_max)
    ours._send_message(channel, method, (properties, body))
    SelectConnection._send_message(stock, channel, method, (properties, body))
    assert b"".join(ours.sent) == b"".join(stock.sent)
    assert ours.bytes_sent == stock.bytes_sent == sum(map(len, ours.sent))


@pytest.mark.parametrize("transport", [_AsyncPlaintextTransport, _AsyncSSLTransport])
def test_pika_still_reads_in_small_pieces_unless_it_is_told_otherwise(transport: Any) -> None:
    assert READ_BYTES > transport._MAX_RECV_BYTES
    assert transport._MAX_CONSUME_BYTES > 0
