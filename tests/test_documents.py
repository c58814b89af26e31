"""The documents against the code: options, settings, fields, exit codes, links, places."""

import ast
import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

import cli
from console.command_line import EXAMPLES
from console.output import COLUMNS
from peer import views
from peer.config import Config, parse_config
from peer.failures import ExitCode
from simulation.__main__ import all_scenarios
from simulation.__main__ import parser as simulation_parser

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS = (ROOT / "docs/commands.md").read_text()
# Options of other programs that the documents mention.
FOREIGN_OPTIONS = {"--apply-to", "--now"}
PLACE = re.compile(r"`([\w/]+\.(?:py|sh))`((?:[:,] `[\w.]+`)*)")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(group: click.Group, words: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{words} {name}".strip(), command
        if isinstance(command, click.Group):
            yield from commands(command, f"{words} {name}".strip())


def options(command: click.Command) -> set[str]:
    return {word for each in command.params if isinstance(each, click.Option) for word in each.opts}


def table_rows(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table that follows a heading, without its head."""
    after = text.split(heading, 1)[1]
    lines = re.search(r"((?:^\|.*\n)+)", after, re.MULTILINE)
    assert lines is not None
    rows = [line.strip("|\n").split("|") for line in lines[1].splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def names_in(path: Path) -> set[str]:
    """What a module defines: functions, classes, constants, and the methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [
                n for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
            ]
            found |= {f"{node.name}.{method.name}" for method in methods}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def test_places_that_the_architecture_names_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = table_rows(text, "## Where is…")
    assert len(rows) > 20
    missing = []
    for row in [*rows, *table_rows(text, "## Where attacks end")]:
        for file, names in PLACE.findall(row[1]):
            path = ROOT / file
            known = names_in(path) if path.is_file() else set()
            wanted = re.findall(r"`([\w.]+)`", names)
            if not path.is_file() or not set(wanted) <= known:
                missing.append(f"{file}: {sorted(set(wanted) - known)}")
    assert missing == []


def test_files_that_the_documents_link_to_exist() -> None:
    links = [
        (document, target)
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
        if "://" not in target
    ]
    assert len(links) > 10
    assert [
        f"{shown(d)}: {target}" for d, target in links if not (d.parent / target).exists()
    ] == []


def options_of_programs(*folders: str) -> set[str]:
    """The options that benchmarks, tools and long tests add to their parsers."""
    sources = [path.read_text() for each in folders for path in sorted((ROOT / each).rglob("*.py"))]
    added = re.compile(r"add_argument\(\s*\"(--[a-z][a-z-]+)\"")
    return {option for source in sources for option in added.findall(source)}


def test_options_in_the_documents_exist() -> None:
    known = options(cli.shoal) | FOREIGN_OPTIONS | {"--help"}
    for _, command in commands(cli.shoal):
        known |= options(command)
    known |= set(simulation_parser(all_scenarios())._option_string_actions)
    known |= options_of_programs("bench", "tools", "tests")
    told = [
        (document, option)
        for document in DOCUMENTS
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", document.read_text())
    ]
    assert len(told) > 50
    assert [f"{shown(d)}: {option}" for d, option in told if option not in known] == []


def test_each_command_and_option_is_documented() -> None:
    missing = []
    for words, command in commands(cli.shoal):
        is_bare_group = isinstance(command, click.Group) and not command.invoke_without_command
        last = words.rpartition(" ")[2]
        if not is_bare_group and f"shoal {words}" not in COMMANDS and f"`{last}" not in COMMANDS:
            missing.append(words)
        missing += [f"{words} {each}" for each in options(command) if each not in COMMANDS]
    assert missing == []


def test_exit_codes_in_the_documents_are_those_of_the_code() -> None:
    rows = table_rows(COMMANDS, "An error is one line")
    assert [int(row[0]) for row in rows] == sorted(int(code) for code in ExitCode)
    told = {int(number) for number in re.findall(r"(\d+) [a-z]", EXAMPLES.split("Exit codes:")[1])}
    assert told == {int(code) for code in ExitCode}


@pytest.mark.parametrize(
    ("command", "view"),
    [
        ("search", views.FoundView),
        ("shares", views.ShareView),
        ("get", views.GetView),
        ("put", views.PutView),
        ("put --to", views.SentView),
        ("peers", views.PeerView),
        ("inbox", views.InboxView),
        ("outbox", views.OutboxView),
        ("status", views.StatusView),
        ("invite", views.InviteView),
        ("contact", views.ContactView),
        ("doctor", views.CheckView),
        ("explain", views.HopView),
        ("explain at its end", views.ExplainView),
        ("explain in `records`", views.RecordView),
    ],
)
def test_json_fields_in_the_documents_are_those_of_the_views(command: str, view: type) -> None:
    rows = {
        name.strip(): re.findall(r"\w+", row[1].split("`")[1])
        for row in table_rows(COMMANDS, "## Fields of --json")
        for name in row[0].split(",")
    }
    fields = [field.name.rstrip("_") for field in dataclasses.fields(view)]
    assert rows[command] == fields
    columns = COLUMNS.get("send" if command == "put --to" else command, ())
    assert tuple(fields[: len(columns)]) == columns


def test_settings_of_the_documents_are_all_there_are_with_their_defaults() -> None:
    text = (ROOT / "docs/operating.md").read_text().split("```toml\n")[1].split("```")[0]
    told, defaults = parse_config(text.encode()), Config()
    given = tomllib.loads(text)
    unsaid = []
    for name in Config.__struct_fields__:
        table = getattr(defaults, name)
        if not isinstance(table, msgspec.Struct):
            assert name in given
            continue
        for key in table.__struct_fields__:
            default = getattr(table, key)
            if key not in given[name]:
                unsaid.append(f"{name}.{key}")
            elif default is not None:
                assert getattr(getattr(told, name), key) == default, f"{name}.{key}"
    assert unsaid == []


def test_examples_in_the_documents_are_commands_that_exist() -> None:
    known = {words for words, _ in commands(cli.shoal)}
    unknown = []
    for document in DOCUMENTS:
        blocks = re.findall(r"```sh\n(.*?)```", document.read_text(), re.DOTALL)
        for line in "\n".join(blocks).splitlines():
            match = re.match(r"(?:\.venv/bin/)?shoal ([a-z]+)", line)
            if match and match[1] not in known:
                unknown.append(f"{shown(document)}: {line}")
    assert unknown == []
