"""The `shoal` command: arguments and exit codes, nothing else.

Each command loads what it needs when it runs: `--help`, `status` and `peers` load neither gRPC nor
cryptography. What a command does is said by peer; how it looks, by console.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from console.command_line import (
    Group,
    Parsed,
    Settings,
    home_folder,
    settings_of,
    usage_words,
)
from console.edge import run_to_exit_code
from peer.failures import ExitCode, Failure, NoPeerRunning, failure_of
from peer.given import (
    check_arguments,
    get_target,
    leave_on_signals,
    parse_address,
    parse_advertised,
    parse_listen,
    read_invite,
    read_secret,
)
from peer.units import parse_span
from peer.version import VERSION

if TYPE_CHECKING:
    from peer.home import Home


_EXAMPLES = """\b
Examples:
  shoal join                               run a peer; makes a private network the first time
  shoal join shoal1-...                    join somebody's network by their invite
  shoal put holiday.jpg                    share a file in place
  shoal search holiday                     find files by words of their names
  shoal get holiday.jpg                    fetch it from everybody who has it
  shoal put thesis.pdf --to bob            deliver it, even if bob is away and you leave too
  shoal demo                               see all of this on this machine in half a minute

The options above may also follow the command; `--` ends the options. Results are on stdout,
everything else on stderr. Exit codes: 0 done, 1 internal error, 2 usage, 3 nothing found,
4 no holder reachable, 5 not verified, 6 not permitted, 7 full, 8 timed out, 9 no peer running,
10 ambiguous, 11 queue unavailable, 130 interrupted.
"""


pass_settings = click.make_pass_decorator(Settings)
ADDRESS = Parsed("HOST:PORT", parse_address)
LISTEN = Parsed("HOST:PORT", parse_listen)
ADVERTISED = Parsed("HOST[:PORT]", parse_advertised)
SPAN = Parsed("TIME", parse_span)
PATH = click.Path(path_type=Path)
NETWORK = click.option(
    "--network", "network_file", type=PATH, metavar="FILE", help="The network file to use."
)


@click.group(cls=Group, hide_globals=False, invoke_without_command=True, epilog=_EXAMPLES)
@click.pass_context
def shoal(context: click.Context) -> None:
    """Share files peer to peer: find by name, fetch from everybody, deliver to the absent."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@shoal.command()
@click.argument("invite", required=False)
@NETWORK
@click.option("--bootstrap", type=ADDRESS, multiple=True, help="A peer to join through.")
@click.option("--listen", type=LISTEN, help="Where to listen (default 0.0.0.0:4100 or next).")
@click.option("--advertise", type=ADVERTISED, help="The address to tell others.")
@click.option("--name", "nickname", metavar="NICK", help="Your nickname (default: host name).")
@click.option("--share", "shares", type=PATH, multiple=True, help="A file to share from the start.")
@click.option(
    "--queue",
    envvar="SHOAL_QUEUE",
    metavar="AMQP_URL",
    help="RabbitMQ to deliver through; @FILE reads the URL from a file (SHOAL_QUEUE).",
)
@click.option("--no-mailbox", is_flag=True, help="Keep no mail for others.")
@click.option("--no-table", is_flag=True, help="No live table.")
@click.option("--detach", is_flag=True, help="Return when the peer is ready; it runs on.")
@pass_settings
def join(settings: Settings, /, **given: Any) -> int:
    """Run a peer until Ctrl-C or `shoal leave`.

    INVITE is what `shoal invite` prints on a member's machine; `-` reads it from stdin, so that it
    does not show in the process list. Without one the peer takes --network, else the network it
    was in before, else it makes a new private network and shows its invite.
    """

    given["invite"] = read_invite(given["invite"])
    given["queue"] = read_secret(given["queue"])
    given["shares"] = tuple(_absolute(path) for path in given["shares"])
    if given["network_file"] is not None:
        given["network_file"] = _absolute(given["network_file"])
    if given["invite"] and given["network_file"]:
        raise click.UsageError("INVITE and --network both name a network: give one")
    return _join_detached(settings, given) if given["detach"] else _join_here(settings, given)


@shoal.command()
@pass_settings
def leave(settings: Settings) -> None:
    """End the running peer cleanly: its records are withdrawn."""
    _ask(settings, "leave", {})
    _home(settings).wait_until_free()
    settings.output().show("leave", {"state": "left"})


@shoal.command()
@click.argument("paths", type=PATH, nargs=-1, required=True, metavar="PATH...")
@click.option("--as", metavar="NAME", help="Share under another name.")
@click.option("--to", metavar="PEER", help="Send to one peer instead of sharing.")
@click.option(
    "--expires", "expires_s", type=SPAN, help="How long it may wait for the peer (default 7d)."
)
@click.option("--wait", is_flag=True, help="Wait for the peer's receipt.")
@click.option(
    "--via",
    type=click.Choice(["direct", "queue", "mailbox"]),
    multiple=True,
    help="Allow only these ways of delivery.",
)
@pass_settings
def put(settings: Settings, /, paths: tuple[Path, ...], **given: Any) -> None:
    """Share files in place, or send them to one peer with --to.

    Returns when others hold the records, so that every search and get from then on finds the
    file. With --to nothing is shared: the file goes to that peer, sealed, and waits if it is away.
    """
    if given["as"] is not None and len(paths) > 1:
        raise click.UsageError("--as names one file, but several were given")
    if given["to"] is None and (given["expires_s"] is not None or given["wait"] or given["via"]):
        raise click.UsageError("--expires, --wait and --via need --to PEER")
    arguments = {"paths": [str(_absolute(path)) for path in paths], **given}
    _ask(settings, "put", arguments)


@shoal.command()
@click.argument("words", nargs=-1, required=True, metavar="WORD...")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@NETWORK
@pass_settings
def search(
    settings: Settings, words: tuple[str, ...], limit: int, network_file: Path | None
) -> None:
    """Find files whose names hold all the words; best first. Works with no peer running."""
    arguments = {"words": list(words), "limit": limit}
    _ask_or_do(settings, "search", arguments, network_file)


@shoal.command()
@click.argument("what", metavar="NAME|b3:ID")
@click.option("--from", metavar="PEER", help="Take what this peer offers.")
@click.option("-o", "--output", metavar="PATH", help="Where to; `-` is stdout.")
@click.option("--overwrite", is_flag=True, help="Replace an existing target.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1), help="Seconds in all.")
@click.option("--no-share", is_flag=True, help="Do not share the finished file on.")
@NETWORK
@pass_settings
def get(settings: Settings, /, network_file: Path | None, **given: Any) -> None:
    """Fetch a file from all its holders, resume what was begun, verify it.

    NAME@PEER is short for NAME --from PEER. Works with no peer running.
    """

    output = given.pop("output")
    folder, target = get_target(output, overwrite=given["overwrite"])
    place = {"folder": folder, "target": target, "stdout": output == "-"}
    arguments = {**given, **place, "share": not given.pop("no_share")}
    if output != "-":
        _ask_or_do(settings, "get", arguments, network_file)
        return
    from console.stream import StdoutFile

    stream = StdoutFile(settings.output())
    _ask_or_do(settings, "get", arguments, network_file, on_event=stream.event)
    stream.write()


@shoal.command()
@click.option("--watch", is_flag=True, help="Keep showing them, live.")
@pass_settings
def peers(settings: Settings, watch: bool) -> None:
    """List active and inactive peers."""
    if not watch:
        _ask(settings, "peers", {})
        return
    from console.watch import watch_peers
    from peer.control_client import ask_snapshot

    home = _home(settings)
    watch_peers(settings.output(), lambda: ask_snapshot(home), plain=settings.json)


@shoal.command()
@pass_settings
def inbox(settings: Settings) -> None:
    """List the complete files that others sent to this peer."""
    _ask(settings, "inbox", {})


@shoal.group(invoke_without_command=True)
@click.pass_context
def outbox(context: click.Context) -> None:
    """List what this peer sent to others, and how far it is."""
    if context.invoked_subcommand is None:
        _ask(settings_of(context), "outbox", {})


@outbox.command("cancel")
@click.argument("delivery", metavar="ID")
@pass_settings
def outbox_cancel(settings: Settings, delivery: str) -> None:
    """Take back a delivery that has not arrived yet."""
    _ask(settings, "outbox_cancel", {"id": delivery}, shown_as="outbox")


@shoal.command()
@pass_settings
def shares(settings: Settings) -> None:
    """List what this peer offers."""
    _ask(settings, "shares", {})


@shoal.command()
@click.argument("name")
@pass_settings
def unshare(settings: Settings, name: str) -> None:
    """Stop offering a file; the file itself stays."""
    _ask(settings, "unshare", {"name": name})


@shoal.command()
@pass_settings
def status(settings: Settings) -> None:
    """Tell how the running peer does."""
    _ask(settings, "status", {})


@shoal.command()
@pass_settings
def invite(settings: Settings) -> None:
    """Print the string with which somebody joins this network; it holds the network's key."""
    _ask(settings, "invite", {})


@shoal.group()
def contact() -> None:
    """Whom a nickname means, and who may send to this peer."""


@contact.command("add")
@click.argument("nickname", metavar="NICK")
@click.argument("peer_id", metavar="ID")
@pass_settings
def contact_add(settings: Settings, nickname: str, peer_id: str) -> None:
    """Let a nickname mean one peer id."""
    arguments = {"nickname": nickname, "id": peer_id}
    _ask(settings, "contact_add", arguments, shown_as="contact")


@contact.command("list")
@pass_settings
def contact_list(settings: Settings) -> None:
    """List the contacts."""
    _ask(settings, "contact_list", {}, shown_as="contact")


@contact.command("remove")
@click.argument("nickname", metavar="NICK")
@pass_settings
def contact_remove(settings: Settings, nickname: str) -> None:
    """Forget whom a nickname meant."""
    _ask(settings, "contact_remove", {"nickname": nickname}, shown_as="contact")


@shoal.group()
def network() -> None:
    """Make networks."""


@network.command("new")
@click.argument("name")
@click.option("--open", "is_open", is_flag=True, help="No key: whoever knows the name may join.")
@click.option("--seed", "seeds", type=ADDRESS, multiple=True, required=True, help="Repeatable.")
@click.option("-o", "--output", type=PATH, default="bootstrap.json", show_default=True)
@pass_settings
def network_new(
    settings: Settings, name: str, is_open: bool, seeds: tuple[Any, ...], output: Path
) -> None:
    """Write a network file with a fresh key, for `shoal join --network FILE`."""
    from peer.new_network import write_new_network

    written = write_new_network(name, is_open=is_open, seeds=seeds, path=output)
    if str(output) != "-":
        settings.output().show("network", written)


@shoal.command()
@click.option("--queue", metavar="AMQP_URL", help="Deliver by RabbitMQ (@FILE reads the URL).")
@click.option("--keep", is_flag=True, help="Leave the folders for a look.")
@pass_settings
def demo(settings: Settings, queue: str | None, keep: bool) -> int:
    """Show the whole story with five peers on this machine, in under half a minute."""
    from console.demo import run_demo

    del settings
    return run_demo(command=_this_command(), queue_url=read_secret(queue), keep=keep)


def _home(settings: Settings) -> Home:
    from peer.home import Home

    folder = home_folder(settings)
    return Home.default() if folder is None else Home(folder)


def _ask(
    settings: Settings, command: str, arguments: dict[str, Any], *, shown_as: str = ""
) -> None:
    """Let the running peer do a command, and show what it says."""
    from peer.control_client import call

    output = settings.output()
    try:
        call(_home(settings), command, arguments, lambda e: output.event(shown_as or command, e))
        output.finished(shown_as or command)
    finally:
        output.close()


def _ask_or_do(
    settings: Settings,
    command: str,
    arguments: dict[str, Any],
    network_file: Path | None,
    on_event: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Let the running peer do it; where none runs, do it through a short-lived client."""
    from peer.control_client import call

    output = settings.output()

    def show(event: dict[str, Any]) -> None:
        # The items of a get are the contents to choose from: no result, but part of the error.
        if command == "get" and event["event"] == "item":
            output.event("search", event, to_stderr=True)
        else:
            output.event(command, event)

    try:
        try:
            if network_file is not None:
                raise NoPeerRunning  # the running peer may be in another network
            call(_home(settings), command, arguments, on_event or show)
        except NoPeerRunning:
            _run(_alone(settings, command, arguments, network_file, on_event or show))
        output.finished(command)
    finally:
        output.close()


async def _alone(
    settings: Settings,
    command: str,
    arguments: dict[str, Any],
    network_file: Path | None,
    show: Callable[[dict[str, Any]], None],
) -> int:
    from console.logs import start_logging
    from peer.node import run_command_alone
    from peer.options import AloneOptions

    async def emit(event: dict[str, Any]) -> None:
        show(event)

    start_logging(verbose=settings.verbose)
    options = AloneOptions(
        home=_home(settings).path,
        network_file=None if network_file is None else _absolute(network_file),
        fallback_network_file=_checkout_network(),
    )
    await run_command_alone(options, command, arguments, emit)
    return ExitCode.DONE


# --- the running peer -------------------------------------------------------------------------


def _join_here(settings: Settings, given: dict[str, Any]) -> int:
    from console.logs import start_logging
    from console.screen import JoinScreen
    from peer.options import join_options

    start_logging(verbose=settings.verbose)
    options = join_options(_home(settings).path, given, fallback=_checkout_network())
    screen = JoinScreen(table=not given["no_table"], quiet=settings.quiet)

    async def run() -> int:
        import asyncio

        leave_on_signals(screen.leaving)
        from peer.node import run_peer

        async with asyncio.TaskGroup() as group:
            drawing = group.create_task(screen.run())
            code = await run_peer(options, screen)
            drawing.cancel()
        return code

    return _run(run())


def _join_detached(settings: Settings, given: dict[str, Any]) -> int:
    from peer.detach import join_arguments, start_detached

    home = _home(settings)
    flags = ["--home", str(home.path), *(["-v"] if settings.verbose else [])]
    line = start_detached(
        home,
        [*_this_command(), *flags, *join_arguments(given)],
        stdin_text=f"{given['invite']}\n" if given["invite"] else "",
        environment={"SHOAL_QUEUE": given["queue"]} if given["queue"] else {},
    )
    click.echo(line)
    return ExitCode.DONE


def _run(main: Coroutine[Any, Any, int]) -> int:
    """Run on uvloop where there is one; chosen here and nowhere else."""
    import asyncio

    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        code: int = runner.run(main)
    return code


def _this_command() -> list[str]:
    return [sys.executable, str(Path(__file__).resolve())]


def _checkout_network() -> Path | None:
    """The bootstrap.json of a checkout; an installed command has none beside it."""
    path = Path(__file__).resolve().parent / "bootstrap.json"
    return path if path.is_file() else None


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - a link is shared under its own name


# --- the process ------------------------------------------------------------------------------


def main() -> int:
    """Run the command line; every error becomes one line, one hint and an exit code."""
    settings = Settings(version=VERSION)

    def run() -> object:
        check_arguments(sys.argv[1:])
        return shoal.main(prog_name="shoal", standalone_mode=False, obj=settings)

    return run_to_exit_code(run, _words_of, verbose=lambda: settings.verbose)


def _words_of(error: BaseException) -> Failure:
    if isinstance(error, click.Abort):
        return Failure("interrupted", exit_code=ExitCode.INTERRUPTED)
    if isinstance(error, click.ClickException):
        message, hint = usage_words(error)
        return Failure(message, hint=hint, exit_code=ExitCode.USAGE)
    return failure_of(error)


if __name__ == "__main__":
    sys.exit(main())
