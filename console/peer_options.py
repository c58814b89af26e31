"""The options that commands which run a peer have in common, and those of the operator.

Owns their names and help. How an address is read is handed in, for it is the peer's to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]
PORT = click.IntRange(0, 65535)
_QUEUE = "RabbitMQ to deliver through; @FILE reads the URL from a file (SHOAL_QUEUE)."


def runs_a_peer(
    network: Decorator,
    *,
    address: click.ParamType[Any],
    listen: click.ParamType[Any],
    rate: click.ParamType[Any],
    advertised: click.ParamType[Any],
) -> Decorator:
    """Give a command what each running peer needs: its network, address, name and broker."""
    return _all_of(
        click.argument("invite", required=False),
        network,
        click.option("--bootstrap", type=address, multiple=True, help="A peer to join through."),
        click.option("--listen", type=listen, help="Where to listen (0.0.0.0:4100 or next)."),
        click.option("--advertise", type=advertised, help="The address to tell others."),
        click.option("--name", "nickname", metavar="NICK", help="A nickname (default: host name)."),
        click.option("--queue", envvar="SHOAL_QUEUE", metavar="AMQP_URL", help=_QUEUE),
        click.option(
            "--limit-up",
            type=rate,
            help="Bytes a second to others, such as 5MB: gets and mail together.",
        ),
        click.option(
            "--limit-down", type=rate, help="Bytes a second from others, gets and mail together."
        ),
        click.option("--no-table", is_flag=True, help="No live table."),
        click.option("--detach", is_flag=True, help="Return when the peer is ready; it runs on."),
    )


def operates_a_network(command: Command) -> Command:
    """Give a command what the operator's role has besides."""
    types = click.Choice(["classic", "quorum"])
    return _all_of(
        click.option("--metrics", "metrics_port", type=PORT, help="Serve metrics on loopback."),
        click.option("--health", "health_port", type=PORT, help="Serve gRPC health on loopback."),
        click.option("--setup-queue", is_flag=True, help="Set the network's broker up, and end."),
        click.option("--add-queue-user", metavar="PEER_ID", help="Make a peer an account."),
        click.option("--remove-queue-user", metavar="PEER_ID", help="Take its account away."),
        click.option("--queue-type", type=types, help="Instead of asking the broker."),
        click.option("--management", metavar="URL", help="RabbitMQ's API (default: port 15672)."),
    )(command)


def _all_of(*decorators: Decorator) -> Decorator:
    def decorate(command: Command) -> Command:
        for each in reversed(decorators):
            command = each(command)
        return command

    return decorate
