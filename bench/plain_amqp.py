"""Bare pika, the measure for RabbitMQ deliveries: `python -m bench.plain_amqp WHAT URL ...`.

Owns one queue's worth of persistent messages: published in a window of unconfirmed ones, or
consumed with acknowledgements. Seals, hashes and writes nothing. Prints the seconds from the open
channel to the last confirm or acknowledgement as JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pika
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel

PERSISTENT = pika.BasicProperties(delivery_mode=2)
RUN_MAX_S = 300


class Bench:
    """One connection that does one thing and stops."""

    def __init__(self, url: str, queue: str, window: int) -> None:
        self.queue = queue
        self.window = window
        self.seconds = 0.0
        self._began = 0.0
        self._connection = SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._opened),
            on_open_error_callback=_fail,
        )

    def run(self) -> float:
        """Return how long it took, in seconds."""
        self._connection.ioloop.call_later(RUN_MAX_S, self._connection.ioloop.stop)
        self._connection.ioloop.start()
        return self.seconds

    def _opened(self, channel: Channel) -> None:
        self.channel = channel
        channel.queue_declare(self.queue, durable=True, callback=lambda _frame: self._declared())

    def _declared(self) -> None:
        self._began = time.perf_counter()
        self.begin()

    def begin(self) -> None:
        """Start what is measured; the queue is there."""
        raise NotImplementedError

    def end(self) -> None:
        """Note the time, and stop."""
        self.seconds = time.perf_counter() - self._began
        self._connection.ioloop.stop()


class Publish(Bench):
    """Publish a file in messages of one size."""

    def __init__(self, url: str, queue: str, window: int, path: Path, chunk_bytes: int) -> None:
        self._file = path.open("rb")
        self._chunk_bytes = chunk_bytes
        self._unconfirmed = 0
        self._confirmed = 0
        self._is_read = False
        super().__init__(url, queue, window)

    def begin(self) -> None:
        """Fill the window; each confirm lets the next one out."""
        self.channel.confirm_delivery(self._on_confirm)
        self._fill()

    def _on_confirm(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        count = tag - self._confirmed if frame.method.multiple else 1
        self._confirmed += count
        self._unconfirmed -= count
        self._fill()
        if self._is_read and not self._unconfirmed:
            self.end()

    def _fill(self) -> None:
        while self._unconfirmed < self.window and not self._is_read:
            body = self._file.read(self._chunk_bytes)
            if not body:
                self._is_read = True
                return
            self.channel.basic_publish("", self.queue, body, PERSISTENT, mandatory=True)
            self._unconfirmed += 1


class Consume(Bench):
    """Take a number of messages, each acknowledged."""

    def __init__(self, url: str, queue: str, window: int, count: int) -> None:
        self._left = count
        super().__init__(url, queue, window)

    def begin(self) -> None:
        """Let the broker hand over a window of messages."""
        self.channel.basic_qos(prefetch_count=self.window)
        self.channel.basic_consume(self.queue, self._on_message)

    def _on_message(self, channel: Channel, method: Any, _properties: Any, _body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        self._left -= 1
        if not self._left:
            self.end()


def _fail(_connection: SelectConnection, error: BaseException | str) -> None:
    sys.exit(f"cannot connect: {error}")


def main(arguments: Sequence[str]) -> None:
    """Publish or consume once, and print the seconds."""
    parser = argparse.ArgumentParser(prog="python -m bench.plain_amqp", description=__doc__)
    parser.add_argument("what", choices=("publish", "consume"))
    parser.add_argument("url")
    parser.add_argument("--queue", required=True)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--chunk-bytes", type=int, required=True)
    given = parser.parse_args(arguments)
    count = -(-given.file.stat().st_size // given.chunk_bytes)
    bench = (
        Publish(given.url, given.queue, given.window, given.file, given.chunk_bytes)
        if given.what == "publish"
        else Consume(given.url, given.queue, given.window, count)
    )
    seconds = bench.run()
    if not seconds:
        sys.exit(f"no end after {RUN_MAX_S} s")
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1:])
