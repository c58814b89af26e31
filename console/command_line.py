"""The grammar of the command line: click classes that take the global options anywhere.

Owns --home, --json, --quiet, -v and --version, before and after the command, the argument types
that need no package of ours, and the end of `shoal --help`. Must not know what any command does.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from console.edge import ReaderGone
from console.output import Output

EXAMPLES = """\b
Examples:
  shoal join                               run a peer; makes a private network the first time
  shoal join shoal1-...                    join somebody's network by their invite
  shoal put holiday.jpg                    share a file in place
  shoal search holiday                     find files by words of their names
  shoal get holiday.jpg                    fetch it from everybody who has it
  shoal explain holiday.jpg                see who was asked for it, and what each answered
  shoal put thesis.pdf --to bob            deliver it, even if bob is away and you leave too
  shoal doctor                             see what is wrong here, and what to do about it
  shoal demo                               see all of this on this machine in half a minute

The options above may also follow the command; `--` ends the options. Results are on stdout,
everything else on stderr. Exit codes: 0 done, 1 internal error, 2 usage, 3 nothing found,
4 no holder reachable, 5 not verified, 6 not permitted, 7 full, 8 timed out, 9 no peer running,
10 ambiguous, 11 queue unavailable, 130 interrupted.
"""


@dataclasses.dataclass(slots=True)
class Settings:
    """The global options of one run; filled while the line is parsed."""

    home: Path | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    version: str = ""

    def flags(self) -> list[str]:
        """The words that let another run of the command say as much as this one."""
        return [*(["-v"] if self.verbose else []), *(["-q"] if self.quiet else [])]

    def output(self) -> Output:
        return Output(as_json=self.json, quiet=self.quiet)


def settings_of(context: click.Context) -> Settings:
    """The settings that belong to a context, wherever in the tree it stands."""
    settings = context.find_root().obj
    assert isinstance(settings, Settings)
    return settings


class Command(click.Command):
    """A command that also takes the global options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += global_options(hidden=True)


class Group(click.Group):
    """A group whose commands, at any depth, take the global options."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, hide_globals: bool = True, **kwargs: Any) -> None:
        # Without a command click would make its whole help the error's one line.
        super().__init__(*args, **{"no_args_is_help": False, **kwargs})
        self.params += global_options(hidden=hide_globals)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None  # click itself would print an empty line first
        except BrokenPipeError:
            raise ReaderGone from None  # click itself would exit with 1

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)  # as written: the order in which a person meets them


class Parsed(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 only
    """An argument read by a function whose ValueError says in words what is wrong."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def global_options(*, hidden: bool) -> list[click.Parameter]:
    """Fresh options; those that are not given leave the settings as they are."""

    def store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
        def callback(context: click.Context, _: click.Parameter, value: Any) -> None:
            if value:
                setattr(settings_of(context), name, value)

        return callback

    def flag(name: str, *names: str, text: str) -> click.Option:
        return click.Option(
            names, is_flag=True, expose_value=False, hidden=hidden, callback=store(name), help=text
        )

    home = click.Option(
        ["--home"],
        metavar="DIR",
        type=click.Path(path_type=Path),
        expose_value=False,
        hidden=hidden,
        callback=store("home"),
        help="The peer's folder (SHOAL_HOME; default: the platform's user data folder).",
    )
    version = click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        hidden=hidden,
        callback=_print_version,
        help="Print the version and exit.",
    )
    return [
        home,
        flag("json", "--json", text="One JSON object a line on stdout."),
        flag("quiet", "--quiet", "-q", text="No progress and no notes."),
        flag("verbose", "--verbose", "-v", text="Log everything; tracebacks with errors."),
        version,
    ]


def usage_words(error: click.ClickException) -> tuple[str, str]:
    """What is wrong with the line, and where to read how it should be."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "shoal"
    message = " ".join(error.format_message().split()).rstrip(".")
    if message[1:2].islower():  # click begins with a capital, our messages do not
        message = message[0].lower() + message[1:]
    return message, f"see `{command} --help`"


def home_folder(settings: Settings) -> Path | None:
    """--home, else SHOAL_HOME, else None for the platform's default."""
    if settings.home is not None:
        return settings.home
    named = os.environ.get("SHOAL_HOME")
    return Path(named) if named else None


def _print_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"shoal {settings_of(context).version}")
        context.exit()
