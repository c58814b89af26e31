import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity.address import Address
from identity.errors import BadInvite, BadNetworkFile
from identity.invite import PREFIX, make_invite, parse_invite
from identity.keys import show_peer_id
from identity.network import (
    BootstrapNode,
    Network,
    NetworkFile,
    dump_network_file,
    parse_network_file,
)

KEY = bytes(range(32))
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1,
                max_size=20)  # fmt: skip
HOSTS = st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){0,2}",
                                                           fullmatch=True))  # fmt: skip
NODES = st.builds(
    BootstrapNode,
    st.builds(Address, HOSTS, st.integers(1, 65_535)),
    st.none() | st.binary(min_size=20, max_size=20),
)
NETWORKS = st.builds(Network, NAMES, st.none() | st.binary(min_size=32, max_size=32))
FILES = st.builds(
    NetworkFile,
    NETWORKS,
    st.lists(NODES, max_size=5).map(tuple),
    st.sampled_from([None, "amqp://broker:5672/shoal", "amqps://10.0.0.1", "amqp://a:1,[::1]/s"]),
)


def document(**changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "network": "class-2026",
        "key": base64.b64encode(KEY).decode(),
        "bootstrap": [{"host": "192.0.2.1", "port": 4100, "id": "a" * 32}],
        "queue": {"amqp": "amqp://host:5672/shoal"},
    } | changes


def node(**changes: Any) -> dict[str, Any]:
    return {"bootstrap": [{"host": "192.0.2.1", "port": 4100} | changes]}


@given(FILES)
def test_every_network_survives_its_file_and_its_invite(file: NetworkFile) -> None:
    assert parse_network_file(dump_network_file(file)) == file
    assert parse_invite(make_invite(file)) == file


def test_the_documented_file_is_read() -> None:
    file = parse_network_file(json.dumps(document()).encode())
    assert file.network == Network("class-2026", KEY)
    assert file.bootstrap[0].address == Address("192.0.2.1", 4100)
    assert show_peer_id(file.bootstrap[0].peer_id or b"") == "a" * 32
    assert file.queue_amqp == "amqp://host:5672/shoal"


def test_without_key_the_network_is_open() -> None:
    changed = document()
    del changed["key"], changed["queue"], changed["bootstrap"]
    file = parse_network_file(json.dumps(changed).encode())
    assert not file.network.is_private
    assert file.bootstrap == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"version": None}, "version"),
        ({"network": ""}, "network"),
        ({"network": "x" * 129}, "network"),
        ({"network": "a\nb"}, "network"),
        ({"network": "a\u202eb"}, "network"),
        ({"network": "\ud800"}, "network"),
        ({"network": 3}, "network"),
        ({"key": "!!"}, "key"),
        ({"key": "YQ=="}, "key"),
        ({"key": base64.b64encode(bytes(33)).decode()}, "key"),
        ({"key": None}, "key"),
        ({"bootstrap": {}}, "bootstrap"),
        ({"bootstrap": ["192.0.2.1:4100"]}, "bootstrap[0]"),
        ({"bootstrap": node()["bootstrap"] * 65}, "bootstrap"),
        (node(host=""), "bootstrap[0].host"),
        (node(host="a b"), "bootstrap[0].host"),
        (node(port=0), "bootstrap[0].port"),
        (node(port=65_536), "bootstrap[0].port"),
        (node(port=True), "bootstrap[0].port"),
        (node(port="4100"), "bootstrap[0].port"),
        (node(id="short"), "bootstrap[0].id"),
        (node(nick="x"), "bootstrap[0].nick"),
        ({"queue": {}}, "queue.amqp"),
        ({"queue": {"amqp": "amqp://me:secret@host/x"}}, "queue.amqp"),
        ({"queue": {"amqp": "amqp://@host/x"}}, "queue.amqp"),
        ({"queue": {"amqp": "http://host/x"}}, "queue.amqp"),
        ({"queue": {"amqp": "amqp://host:99999/x"}}, "queue.amqp"),
        ({"queue": {"amqp": "amqp://"}}, "queue.amqp"),
        ({"queue": {"amqp": "amqp://one,,two/x"}}, "queue.amqp"),
        ({"queue": {"amqp": "amqp://one,me:secret@two/x"}}, "queue.amqp"),
        ({"queue": {"amqp": "amqp://h", "user": "u"}}, "queue.user"),
        ({"quque": 1}, "quque"),
    ],
)
def test_the_error_names_the_key_that_is_wrong(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(BadNetworkFile) as caught:
        parse_network_file(json.dumps(document(**changes)).encode())
    assert named in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b"[" * 60_000, b" " * 70_000, b'{"version":1}', b"null"]
)
def test_what_is_no_network_file_is_refused(data: bytes) -> None:
    with pytest.raises(BadNetworkFile):
        parse_network_file(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_network_file_or_a_bad_one(data: bytes) -> None:
    with pytest.raises(BadNetworkFile):
        parse_network_file(data)


def test_network_ids_differ_by_name_and_by_key() -> None:
    networks = [Network("a"), Network("b"), Network("a", KEY), Network("a", bytes(32))]
    assert len({n.network_id for n in networks}) == 4
    assert Network("e\u0301") == Network("\u00e9")  # composed and decomposed are one name


@given(NETWORKS, st.text(max_size=10), st.binary(max_size=40))
def test_derived_keys_differ_by_label_and_context(of: Network, label: str, context: bytes) -> None:
    key = of.derive(label, context)
    assert key == of.derive(label, context)
    assert len(of.derive(label, context, length=48)) == 48
    assert key not in (of.derive(label + "x", context), of.derive(label, context + b"x"))
    assert key != of.derive(label, context, b"")


def test_the_key_shows_in_no_repr() -> None:
    file = NetworkFile(Network("n", b"k" * 32), ())
    assert "kkk" not in repr(file)
    assert "kkk" not in f"{file.network}"


def test_an_invite_is_one_word_that_no_shell_touches() -> None:
    invite = make_invite(NetworkFile(Network("n", KEY), ()))
    assert invite.startswith(PREFIX)
    assert set(invite) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@given(FILES, st.data())
def test_an_invite_with_one_wrong_or_lost_character_is_refused(
    file: NetworkFile, data: st.DataObject
) -> None:
    invite = make_invite(file)
    at = data.draw(st.integers(0, len(invite) - 2))  # the last holds bits that mean nothing
    other = data.draw(st.sampled_from([c for c in "aB3_" if c != invite[at]]))
    for damaged in (invite[:at] + other + invite[at + 1 :], invite[:at] + invite[at + 1 :]):
        with pytest.raises(BadInvite):
            parse_invite(damaged)


@given(st.text(max_size=80))
def test_any_text_is_an_invite_or_a_bad_one(text: str) -> None:
    for attempt in (text, PREFIX + text):
        with pytest.raises(BadInvite):
            parse_invite(attempt)


def test_an_invite_of_another_version_says_so() -> None:
    with pytest.raises(BadInvite, match="version"):
        parse_invite("shoal2-abcdef")
    with pytest.raises(BadInvite):
        parse_invite(PREFIX + "A" * 20_000)
