import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.hashes import SHA384
from hypothesis import given
from hypothesis import strategies as st

from identity import tls as module
from identity.errors import BadKeyFile, ForeignCertificate
from identity.network import Network
from identity.tls import TlsMaterial, load_or_create_tls, make_tls, verify_leaf
from tests.support.forgery import (
    copied_from_another_leaf,
    honest_binding,
    member_leaf,
    other_members_key,
    other_network,
    other_purpose,
)
from tests.support.identities import identity, network

NETWORK = network()
OTHERS = [
    network(private=False),
    network(name="another"),
    Network(NETWORK.name, bytes(32)),
    Network("open"),
]


def test_a_leaf_proves_its_peer_in_its_network_only() -> None:
    made = make_tls(identity(1), NETWORK)
    assert verify_leaf(made.certificate_pem, NETWORK) == (
        identity(1).peer_id,
        identity(1).public_key,
    )
    assert made.peer_id == identity(1).peer_id
    for other in OTHERS:
        with pytest.raises(ForeignCertificate):
            verify_leaf(made.certificate_pem, other)


def test_an_honest_leaf_made_by_hand_is_accepted() -> None:
    assert verify_leaf(member_leaf(), NETWORK)[0] == identity(1).peer_id


@pytest.mark.parametrize(
    "binding",
    [
        other_members_key,
        other_purpose,
        other_network,
        copied_from_another_leaf,
        lambda spki: honest_binding(spki)[:-1],
        lambda spki: honest_binding(spki) + b"\x00",
        lambda spki: honest_binding(spki)[2:],
        lambda spki: b"",
        lambda spki: b"\x04\x00",
    ],
)
def test_a_forged_binding_is_refused(binding: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ForeignCertificate):
        verify_leaf(member_leaf(binding=binding), NETWORK)


@pytest.mark.parametrize(
    "names",
    [
        [],
        [module.server_name(identity(2).peer_id)],
        [module.server_name(identity(1).peer_id), module.server_name(identity(2).peer_id)],
        ["*.shoal"],
    ],
)
def test_a_leaf_names_its_own_peer_and_nobody_else(names: list[str]) -> None:
    with pytest.raises(ForeignCertificate):
        verify_leaf(member_leaf(names=names), NETWORK)


def test_leaves_of_another_kind_are_refused() -> None:
    with pytest.raises(ForeignCertificate):
        verify_leaf(member_leaf(leaf_key=ed25519.Ed25519PrivateKey.generate()), NETWORK)
    with pytest.raises(ForeignCertificate):
        verify_leaf(member_leaf(hash_algorithm=SHA384()), NETWORK)
    with pytest.raises(ForeignCertificate):
        verify_leaf(make_tls(identity(1), NETWORK).ca_pem, NETWORK)  # the authority is no peer


@given(st.integers(0, 100_000), st.integers(1, 255))
def test_any_altered_byte_leaves_no_other_peer(position: int, change: int) -> None:
    leaf = bytearray(member_leaf())
    leaf[position % len(leaf)] ^= change
    with pytest.raises(ForeignCertificate):
        verify_leaf(bytes(leaf), NETWORK)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_foreign_certificate(data: bytes) -> None:
    for attempt in (data, b"-----BEGIN CERTIFICATE-----\n" + data, b"\x30" * 10_000):
        with pytest.raises(ForeignCertificate):
            verify_leaf(attempt, NETWORK)


def test_a_leaf_comes_back_byte_for_byte(tmp_path: Path) -> None:
    made = load_or_create_tls(tmp_path / "home", identity(1), NETWORK)
    module._authority.cache_clear()  # as after a restart
    again = load_or_create_tls(tmp_path / "home", identity(1), NETWORK)
    assert (again.certificate_pem, again.private_key_pem) == (
        made.certificate_pem,
        made.private_key_pem,
    )
    for name in ("tls.key", "tls.crt"):
        assert stat.S_IMODE((tmp_path / "home" / name).stat().st_mode) == 0o600


def key_of_another_leaf(folder: Path) -> None:
    (folder / "tls.key").write_bytes(make_tls(identity(1), NETWORK).private_key_pem)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "tls.key").unlink(),
        lambda folder: (folder / "tls.crt").unlink(),
        lambda folder: (folder / "tls.crt").write_bytes(b"junk"),
        lambda folder: (folder / "tls.key").write_bytes(b"junk"),
        key_of_another_leaf,
    ],
)
def test_damaged_files_are_made_anew(damage: Callable[[Path], object], tmp_path: Path) -> None:
    made = load_or_create_tls(tmp_path, identity(1), NETWORK)
    damage(tmp_path)
    again = load_or_create_tls(tmp_path, identity(1), NETWORK)
    assert again.certificate_pem != made.certificate_pem
    assert load_or_create_tls(tmp_path, identity(1), NETWORK) == again


def test_another_identity_or_network_gets_another_leaf(tmp_path: Path) -> None:
    def load(n: int, of: Network) -> TlsMaterial:
        return load_or_create_tls(tmp_path, identity(n), of)

    load(1, NETWORK)
    assert verify_leaf(load(2, NETWORK).certificate_pem, NETWORK)[0] == identity(2).peer_id
    assert verify_leaf(load(2, OTHERS[1]).certificate_pem, OTHERS[1])[0] == identity(2).peer_id


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadKeyFile):
        load_or_create_tls(tmp_path / "file", identity(1), NETWORK)


def test_the_private_key_shows_in_no_repr() -> None:
    assert "PRIVATE" not in repr(make_tls(identity(1), NETWORK))
