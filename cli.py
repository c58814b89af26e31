"""The `shoal` command: arguments and exit codes, nothing else.

Each command loads what it needs when it runs: `--help`, `status` and `peers` load neither gRPC nor
cryptography. What a command does is said by peer; how it looks, by console.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from console.command_line import (
    EXAMPLES,
    Group,
    Parsed,
    Settings,
    home_folder,
    settings_of,
    usage_words,
)
from console.edge import run_to_exit_code
from console.peer_options import operates_a_network, runs_a_peer
from peer.control_client import ask_snapshot, call
from peer.failures import ExitCode, Failure, NoPeerRunning, failure_of
from peer.given import (
    absolute,
    check_arguments,
    check_stdin_put,
    get_target,
    leave_on_signals,
    parse_address,
    parse_advertised,
    parse_listen,
    read_join,
    read_secret,
)
from peer.home import Home
from peer.installed import Installed
from peer.units import parse_size, parse_span
from peer.version import VERSION

Result = TypeVar("Result")
HERE = Installed(Path(__file__).resolve())
pass_settings = click.make_pass_decorator(Settings)
ADDRESS = Parsed("HOST:PORT", parse_address)
RATE = Parsed("SIZE", parse_size)
LISTEN = Parsed("HOST:PORT", parse_listen)
ADVERTISED = Parsed("HOST[:PORT]", parse_advertised)
SPAN = Parsed("TIME", parse_span)
PATH = click.Path(path_type=Path)
STDIN = Path("-")
NETWORK = click.option(
    "--network", "network_file", type=PATH, metavar="FILE", help="The network file to use."
)


@click.group(cls=Group, hide_globals=False, invoke_without_command=True, epilog=EXAMPLES)
@click.pass_context
def shoal(context: click.Context) -> None:
    """Share files peer to peer: find by name, fetch from everybody, deliver to the absent."""
    if context.invoked_subcommand is None:
        from console.menu import offer_menu

        settings = settings_of(context)
        if not offer_menu(settings, _home(settings), HERE.command()):
            click.echo(context.get_help())


@shoal.command()
@runs_a_peer(NETWORK, address=ADDRESS, listen=LISTEN, rate=RATE, advertised=ADVERTISED)
@click.option(
    "--share",
    "shares",
    type=PATH,
    multiple=True,
    help="A file to share, or a folder whose files are shared as they come, change and go.",
)
@click.option("--no-mailbox", is_flag=True, help="Keep no mail for others.")
@pass_settings
def join(settings: Settings, /, **given: Any) -> int:
    """Run a peer until Ctrl-C or `shoal leave`.

    INVITE is what `shoal invite` prints on a member's machine; `-` reads it from stdin, so that it
    does not show in the process list. Without one the peer takes --network, else the network it
    was in before, else it makes a new private network and shows its invite.
    """
    return _run_peer(settings, {**given, "command": "join"})


@shoal.command()
@runs_a_peer(NETWORK, address=ADDRESS, listen=LISTEN, rate=RATE, advertised=ADVERTISED)
@operates_a_network
@pass_settings
def bootstrap(settings: Settings, /, **given: Any) -> int:
    """Run a peer for the network, not for a person: an address to join by, and a mailbox.

    Shares nothing, keeps more records and more mail than other peers, and offers its broker, if it
    has one, as a mailbox: so that peers need no account there. Otherwise as join.

    With --setup-queue, --add-queue-user or --remove-queue-user it runs no peer: it changes the
    broker through the management API, or prints rabbitmqctl lines where that cannot be reached.
    """
    wanted = [given["setup_queue"], given["add_queue_user"], given["remove_queue_user"]]
    if sum(map(bool, wanted)) > 1:
        raise click.UsageError("--setup-queue and the accounts of peers: one at a time")
    if any(wanted):
        _administer(settings, {**given, "queue": read_secret(given["queue"])})
        return ExitCode.DONE
    if given["queue_type"] or given["management"]:
        raise click.UsageError("--queue-type and --management are for setting up the broker")
    extra = {"command": "bootstrap", "shares": (), "no_mailbox": False}
    return _run_peer(settings, {**given, **extra})


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
    """Share files and folders in place, or send them to one peer with --to.

    `-` is stdin, with --as NAME.

    Returns when others hold the records, so that every search and get from then on finds the
    file. With --to nothing is shared: the file or folder goes to that peer's inbox, and waits,
    sealed, if it is away.
    """
    if given["as"] is not None and len(paths) > 1:
        raise click.UsageError("--as names one file, but several were given")
    if given["to"] is None and (given["expires_s"] is not None or given["wait"] or given["via"]):
        raise click.UsageError("--expires, --wait and --via need --to PEER")
    if STDIN in paths:
        _put_stdin(settings, paths, given)
        return
    _ask(settings, "put", {"paths": [str(absolute(path)) for path in paths], **given})


def _put_stdin(settings: Settings, paths: tuple[Path, ...], given: dict[str, Any]) -> None:
    check_stdin_put(paths, given["as"])
    from peer.config import load_config
    from peer.piped import piped

    home = _home(settings)
    if home.running_pid() is None:
        raise NoPeerRunning  # before anything is read
    config = load_config(home.config_path)
    with piped(home, config, sys.stdin.buffer, keep=given["to"] is None) as path:
        _ask(settings, "put", {"paths": [str(path)], **given})


@shoal.command()
@click.argument("words", nargs=-1, required=True, metavar="WORD...")
@click.option("--limit", type=click.IntRange(1, 300), default=50, show_default=True)
@NETWORK
@pass_settings
def search(
    settings: Settings, words: tuple[str, ...], limit: int, network_file: Path | None
) -> None:
    """Find files whose names hold all the words; best first. Works with no peer running.

    Words are whole; beside one, another may be a beginning: shoal search whale 'so*'.
    """
    arguments = {"words": list(words), "limit": limit}
    _ask_or_do(settings, "search", arguments, network_file)


@shoal.command()
@click.argument("what", metavar="NAME|b3:ID")
@click.option("--from", metavar="PEER", help="Take what this peer offers.")
@click.option("-o", "--output", metavar="PATH", help="Where to; `-` is stdout.")
@click.option("--overwrite", is_flag=True, help="Replace a target, update a folder.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0.1), help="Seconds in all.")
@click.option("--no-share", is_flag=True, help="Do not share the finished file on.")
@NETWORK
@pass_settings
def get(settings: Settings, /, network_file: Path | None, **given: Any) -> None:
    """Fetch a file or folder from all its holders, resume what was begun, verify it.

    NAME@PEER is short for NAME --from PEER. Works with no peer running.
    """
    output, share = given.pop("output"), not given.pop("no_share")
    folder, target = get_target(output, overwrite=given["overwrite"])
    place = {"folder": folder, "target": target, "stdout": output == "-"}
    arguments = {**given, **place, "share": share}
    if output != "-":
        _ask_or_do(settings, "get", arguments, network_file)
        return
    from console.stream import StdoutStream

    with StdoutStream(settings.output()) as stream:
        _ask_or_do(settings, "get", arguments, network_file, stream.event, stream.connected)
        stream.finish()


@shoal.command()
@click.argument("what", metavar="NAME|b3:ID")
@click.option("--word", is_flag=True, help="Explain the search of a word of names.")
@click.option("--peer", is_flag=True, help="Explain how a PEER's own record is found.")
@pass_settings
def explain(settings: Settings, what: str, word: bool, peer: bool) -> None:
    """Look a name up and show each hop: who was asked, what came back, what was rejected and why.

    Then the verdict: which records were found, who published them, on how many of the closest
    peers they are, and whether their publishers answer. Exit 3 when nothing is found.
    """
    if word and peer:
        raise click.UsageError("--word and --peer mean two different lookups: give one")
    _ask(settings, "explain", {"what": what, "word": word, "peer": peer})


@shoal.command()
@click.option("--watch", is_flag=True, help="Keep showing them, live.")
@pass_settings
def peers(settings: Settings, watch: bool) -> None:
    """List active and inactive peers."""
    if not watch:
        _ask(settings, "peers", {})
        return
    from console.watch import watch_peers

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
@click.option("--listen", type=LISTEN, help="The port to try where no peer runs yet.")
@NETWORK
@pass_settings
def doctor(settings: Settings, listen: Any, network_file: Path | None) -> None:
    """Examine this peer and its surroundings: each check with what was seen and the remedy.

    Home, disk, ports, bootstrap nodes, clock, reachability. Works with no peer running, too.
    Ends within ten seconds, and with exit 0 whatever it finds: the findings are its result.
    """
    arguments = {"listen": None if listen is None else str(listen)}
    _ask_or_do(settings, "doctor", arguments, network_file)


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
    """List whom nicknames mean: contacts that were added, and ids remembered at first sight."""
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
def demo(queue: str | None, keep: bool) -> int:
    """Show the whole story with five peers on this machine, in under half a minute."""
    from console.demo import run_demo

    return run_demo(command=HERE.command(), queue_url=read_secret(queue), keep=keep)


def _home(settings: Settings) -> Home:
    folder = home_folder(settings)
    return Home.default() if folder is None else Home(folder)


def _ask(
    settings: Settings, command: str, arguments: dict[str, Any], *, shown_as: str = ""
) -> None:
    """Let the running peer do a command, and show what it says."""
    shown_as = shown_as or command
    with settings.output() as output:
        call(_home(settings), command, arguments, partial(output.event, shown_as))
        output.finished(shown_as)


def _ask_or_do(
    settings: Settings,
    command: str,
    arguments: dict[str, Any],
    network_file: Path | None,
    show: Callable[[dict[str, Any]], None] | None = None,
    on_connected: Callable[[Any], None] | None = None,
) -> None:
    """Let the running peer do a command; where none runs, do it through a short-lived client."""
    from peer.asking import call_or_do_alone

    with settings.output() as output:
        call_or_do_alone(
            _home(settings),
            command,
            arguments,
            show or partial(output.event, command),
            network_file=network_file,
            fallback_network_file=HERE.network_file(),
            run=partial(_run, settings),
            on_connected=on_connected,
        )
        output.finished(command)


def _administer(settings: Settings, given: dict[str, Any]) -> None:
    """Set up the broker, or a peer's account on it."""
    from peer.broker import administer

    with settings.output() as output:
        done = administer(_home(settings).path, given, HERE.network_file(), output.note)
        output.show("bootstrap", done)


def _run_peer(settings: Settings, given: dict[str, Any]) -> int:
    if given["invite"] and given["network_file"]:
        raise click.UsageError("INVITE and --network both name a network: give one")
    given = read_join(given)
    if not given["detach"]:
        return _join_here(settings, given)
    from peer.detach import join_detached

    click.echo(join_detached(_home(settings), [*HERE.command(), *settings.flags()], given))
    return ExitCode.DONE


def _join_here(settings: Settings, given: dict[str, Any]) -> int:
    from console.screen import JoinScreen
    from peer.options import join_options

    options = join_options(_home(settings).path, given, fallback=HERE.network_file())
    screen = JoinScreen(table=not given["no_table"], quiet=settings.quiet)

    async def serve() -> int:
        leave_on_signals(screen.leaving)
        from peer.node import run_peer  # takes a moment: signals are heard before

        return await screen.drawn_beside(run_peer(options, screen))

    return _run(settings, serve())


def _run(settings: Settings, main: Coroutine[Any, Any, Result]) -> Result:
    """Run with logs, on uvloop where there is one; chosen here and nowhere else."""
    import asyncio

    from console.logs import start_logging

    start_logging(verbose=settings.verbose)
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


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
