from pathlib import Path

import pytest

from identity.address import Address
from identity.errors import BadInvite, BadNetworkFile
from identity.invite import make_invite, parse_invite
from identity.network import BootstrapNode, Network, NetworkFile, dump_network_file
from peer.errors import BadInput, NotFound, OtherNetwork
from peer.failures import failure_of
from peer.home import Home
from peer.networks import (
    BOOTSTRAP_IN_INVITE_MAX,
    Choice,
    choose_network,
    invite_for,
    remember,
)

SEED = BootstrapNode(Address("192.0.2.1", 4100))
LAB = NetworkFile(Network("lab", b"l" * 32), (SEED,))
LAB_OF_ANOTHER_KEY = NetworkFile(Network("lab", b"m" * 32), (SEED,))
CLASS = NetworkFile(Network("class"), (SEED,), "amqp://broker.example:5672/shoal")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.ensure()
    return home


def written(tmp_path: Path, file: NetworkFile, name: str = "network.json") -> Path:
    path = tmp_path / name
    path.write_bytes(dump_network_file(file))
    return path


def choose(
    home: Home,
    invite: str | None = None,
    network_file: Path | None = None,
    fallback_file: Path | None = None,
    *,
    make_new: bool = True,
) -> Choice:
    return choose_network(
        home,
        invite=invite,
        network_file=network_file,
        fallback_file=fallback_file,
        make_new=make_new,
    )


def test_invite_is_joined_and_remembered(home: Home) -> None:
    assert choose(home, f" {make_invite(LAB)}\n") == Choice(LAB, remember=True)


def test_network_file_is_joined_and_remembered(home: Home, tmp_path: Path) -> None:
    assert choose(home, None, written(tmp_path, CLASS)) == Choice(CLASS, remember=True)


def test_invite_and_file_at_once_are_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        choose(home, make_invite(LAB), written(tmp_path, LAB))


def test_remembered_network_comes_before_the_checkouts(home: Home, tmp_path: Path) -> None:
    remember(home, LAB)
    assert choose(home, None, None, written(tmp_path, CLASS)) == Choice(LAB, remember=False)
    assert home.network_path.stat().st_mode & 0o777 == 0o600


def test_checkouts_network_is_joined_but_not_remembered(home: Home, tmp_path: Path) -> None:
    assert choose(home, None, None, written(tmp_path, CLASS)) == Choice(CLASS, remember=False)


def test_without_any_network_a_new_private_one_begins(home: Home, tmp_path: Path) -> None:
    first = choose(home, None, None, tmp_path / "missing.json")
    second = choose(home)
    assert first.remember
    assert first.file.network.is_private
    assert first.file.bootstrap == ()
    assert first.file.network.network_id != second.file.network.network_id
    assert home.read_network() is None  # whoever starts the peer remembers it


def test_client_without_a_network_is_told_how_to_get_one(home: Home) -> None:
    with pytest.raises(NotFound) as caught:
        choose(home, make_new=False)
    assert "shoal join" in caught.value.hint


@pytest.mark.parametrize("other", [CLASS, LAB_OF_ANOTHER_KEY])
def test_home_of_one_network_joins_no_other(home: Home, tmp_path: Path, other: NetworkFile) -> None:
    remember(home, LAB)
    for invite, path in ((make_invite(other), None), (None, written(tmp_path, other))):
        with pytest.raises(OtherNetwork) as caught:
            choose(home, invite, path)
        assert caught.value.code == 2
        assert "--home" in caught.value.hint
    assert choose(home).file == LAB


def test_fresh_invite_of_the_same_network_replaces_the_seeds(home: Home) -> None:
    remember(home, LAB)
    moved = NetworkFile(LAB.network, (BootstrapNode(Address("192.0.2.99", 4100)),))
    choice = choose(home, make_invite(moved))
    assert choice == Choice(moved, remember=True)
    remember(home, choice.file)
    assert choose(home).file == moved


@pytest.mark.parametrize("invite", ["", "shoal1-", "shoal1-zzzz", make_invite(LAB)[:-1], "hello"])
def test_damaged_invite_is_a_usage_error(home: Home, invite: str) -> None:
    with pytest.raises(BadInvite) as caught:
        choose(home, invite)
    assert failure_of(caught.value).code == 2


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"version": 1, "network": "x", "seed": []}', b"\xff"]
)
def test_malformed_file_is_a_usage_error_wherever_it_stands(
    home: Home, tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    for network_file, fallback in ((path, None), (None, path)):
        with pytest.raises(BadNetworkFile) as caught:
            choose(home, None, network_file, fallback)
        assert failure_of(caught.value).code == 2
    home.write_network(data)
    with pytest.raises(BadNetworkFile):
        choose(home)
    assert home.read_network() == data


def test_file_that_cannot_be_read_is_named(home: Home, tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(BadInput) as caught:
            choose(home, None, path)
        assert str(path) in str(caught.value)


def test_endless_file_is_read_to_its_limit_only(home: Home) -> None:
    with pytest.raises(BadNetworkFile):
        choose(home, None, Path("/dev/zero"))


def test_invite_of_a_member_names_it_first_and_the_seeds_once() -> None:
    me = BootstrapNode(Address("192.0.2.7", 4100), b"p" * 20)
    again = BootstrapNode(me.address)
    file = NetworkFile(CLASS.network, (SEED, again, SEED), CLASS.queue_amqp)
    shown = parse_invite(invite_for(file, me))
    assert shown == NetworkFile(CLASS.network, (me, SEED), CLASS.queue_amqp)


def test_invite_stays_short_in_a_network_of_many_seeds() -> None:
    seeds = tuple(BootstrapNode(Address("192.0.2.1", 4100 + number)) for number in range(60))
    me = BootstrapNode(Address("192.0.2.7", 4100), b"p" * 20)
    shown = parse_invite(invite_for(NetworkFile(LAB.network, seeds), me))
    assert shown.bootstrap == (me, *seeds[: BOOTSTRAP_IN_INVITE_MAX - 1])
