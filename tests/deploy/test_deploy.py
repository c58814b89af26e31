"""What runs Shoal elsewhere, against the command, the packages and the ports of this tree.

No container engine and no cloud is needed: the files are read as their engines read them.
"""

import configparser
import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import cli
from peer.addresses import DEFAULT_PORT
from peer.failures import ExitCode

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
TEMPLATE = yaml.safe_load((DEPLOY / "cloudformation.yaml").read_text())
UNIT = configparser.ConfigParser(strict=False, interpolation=None)
UNIT.optionxform = str  # type: ignore[assignment,method-assign]
UNIT.read_string((DEPLOY / "shoal.service").read_text())
USER_DATA = TEMPLATE["Resources"]["Machine"]["Properties"]["UserData"]["Fn::Base64"]["Fn::Sub"]


def instructions(name: str) -> list[str]:
    """What follows each instruction of this name in the Dockerfile."""
    return re.findall(rf"^{name} +(.*)$", DOCKERFILE, re.MULTILINE)


def of_image() -> list[str]:
    [command] = instructions("CMD")
    return list(json.loads(command))


def of_compose() -> list[str]:
    words = COMPOSE["services"]["seed"]["command"]
    return [re.sub(r"\$\{\w+:\?[^}]*\}", "seed1.example:4100", word) for word in words]


def of_unit() -> list[str]:
    started = UNIT["Service"]["ExecStart"].replace("$SHOAL_OPTIONS", "--advertise 192.0.2.1:4100")
    return shlex.split(started)[1:]


@pytest.mark.parametrize(
    "words", [of_image(), of_compose(), of_unit()], ids=["image", "compose", "unit"]
)
def test_each_starts_the_operators_peer_by_options_that_exist(words: list[str]) -> None:
    name, *options = words
    assert name == "bootstrap"
    command = cli.shoal.commands[name]
    given = command.make_context(name, options, parent=click.Context(cli.shoal)).params
    assert given["no_table"] is True
    assert str(given["listen"]).endswith(f":{DEFAULT_PORT}")


def test_image_has_all_packages_of_the_project_and_the_context_lets_them_in() -> None:
    copied = {word for line in instructions("COPY") for word in line.split()[:-1]}
    packages = set(PROJECT["tool"]["setuptools"]["packages"])
    modules = {f"{name}.py" for name in PROJECT["tool"]["setuptools"]["py-modules"]}
    wanted = packages | modules | {"pyproject.toml", PROJECT["project"]["readme"], "LICENSE"}
    assert wanted <= copied
    let_in = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert {word for word in copied if not word.startswith(("--", "/"))} == let_in


def test_image_runs_as_a_user_and_keeps_the_home_outside() -> None:
    assert instructions("USER") == ["shoal"]
    [home] = re.findall(r"SHOAL_HOME=(\S+)", DOCKERFILE)
    assert instructions("VOLUME") == [home]
    assert COMPOSE["services"]["seed"]["volumes"] == [f"home:{home}"]
    assert set(instructions("EXPOSE")) == {f"{DEFAULT_PORT}/tcp {DEFAULT_PORT}/udp"}


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def test_lock_of_an_installed_peer_has_the_tested_versions_and_all_that_is_needed() -> None:
    installed, tested = pins(DEPLOY / "requirements.lock"), pins(ROOT / "requirements.lock")
    assert installed.items() <= tested.items()
    needed = {re.split(r"[^\w-]", each)[0] for each in PROJECT["project"]["dependencies"]}
    assert needed | {"setuptools"} <= set(installed)
    assert "pytest" not in installed


def test_unit_gives_up_where_a_new_start_changes_nothing() -> None:
    stopped = {int(code) for code in UNIT["Service"]["RestartPreventExitStatus"].split()}
    assert stopped == {ExitCode.USAGE, ExitCode.NOT_PERMITTED}


def test_installer_is_a_script_that_names_what_is_there() -> None:
    script = DEPLOY / "install.sh"
    subprocess.run(["sh", "-n", script], check=True)
    named = re.findall(r"\$root/(deploy/[\w./]+)", script.read_text())
    assert {(ROOT / each).is_file() for each in named} == {True}
    [home] = re.findall(r"^home=(\S+)$", script.read_text(), re.MULTILINE)
    assert f"SHOAL_HOME={home}" in UNIT["Service"]["Environment"]


def references(node: Any) -> set[str]:
    """Every name that a part of the template refers to."""
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    found: set[str] = set()
    for key, value in node.items():
        match key, value:
            case "Ref", str():
                found.add(value)
            case "Fn::GetAtt", [str(name), *_]:
                found.add(name)
            case "Fn::Sub", str():
                found |= set(re.findall(r"\$\{([\w:]+)", value))
            case _:
                found |= references(value)
    return found


def test_template_refers_to_what_it_has_and_uses_every_parameter() -> None:
    names = references(TEMPLATE)
    known = {*TEMPLATE["Parameters"], *TEMPLATE["Resources"]}
    assert {name for name in names if not name.startswith("AWS::")} <= known
    assert set(TEMPLATE["Parameters"]) <= names


def test_template_opens_the_port_over_udp_and_tcp_and_nothing_else_to_everybody() -> None:
    rules = TEMPLATE["Resources"]["Firewall"]["Properties"]["SecurityGroupIngress"]
    public = {
        (rule["IpProtocol"], rule["FromPort"], rule["ToPort"])
        for rule in rules
        if rule["CidrIp"] == "0.0.0.0/0"
    }
    assert public == {(kind, DEFAULT_PORT, DEFAULT_PORT) for kind in ("udp", "tcp")}


def test_user_data_is_a_script_that_installs_by_files_of_the_tree() -> None:
    subprocess.run(["sh", "-n"], input=USER_DATA, text=True, check=True)
    named = re.findall(r"/usr/local/src/shoal/(\S+)", USER_DATA)
    assert named
    assert {(ROOT / each).is_file() for each in named} == {True}
    assert f":{DEFAULT_PORT} " in USER_DATA
