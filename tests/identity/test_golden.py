"""The bytes of docs/protocol/identity.md, written out: a change here parts old peers from new."""

from cryptography import x509

from identity import tls
from identity.address import Address
from identity.encoding import length_prefixed
from identity.invite import make_invite, parse_invite
from identity.keys import Identity, show_peer_id
from identity.network import BootstrapNode, Network, NetworkFile
from identity.signing import Purpose, signed_bytes, verify

PEER = Identity.from_seed(bytes(range(32)))
OPEN = Network("shoal")
PRIVATE = Network("class-2026", bytes(range(32)))
OPEN_ID = bytes.fromhex("bc0eea440496399be16d68faab95a092028deafcedfd1daeae843a9b37fd69b3")
PRIVATE_ID = bytes.fromhex("5b528d1c19465d9fdd91caab01987801800141bc59aef9fa796a1a010d7bb8b0")
INVITE = (
    "shoal1-lKpjbGFzcy0yMDI2xCAAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eH5KSkqkxOTIuMC4yLjHNEATEFF"
    "ZHWqdUY0dMAoXfXb8ryrc9plE1kpKrMjAwMTpkYjg6OjHNEATAtmFtcXA6Ly9ob3N0OjU2NzIvc2hvYWz4fRiS"
)


def test_length_prefixed_bytes() -> None:
    assert length_prefixed(b"", b"ab", b"ccc").hex() == "0000000000000002616200000003636363"


def test_peer_and_sealing_key_follow_from_the_seed() -> None:
    assert PEER.public_key.hex() == (
        "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    )
    assert PEER.peer_id.hex() == "56475aa75463474c0285df5dbf2bcab73da65135"
    assert show_peer_id(PEER.peer_id) == "kzdvvj2umnduyauf35o36k6kw462mujv"
    assert PEER.sealing_public_key.hex() == (
        "0b7845cc967bc85189fdfc7015376989c5c058722fefb9874220de3b9a9d1b3b"
    )


def test_network_ids() -> None:
    assert OPEN.network_id == OPEN_ID
    assert PRIVATE.network_id == PRIVATE_ID


def test_purposes_are_fixed_words() -> None:
    assert sorted(Purpose) == [
        "envelope", "hello", "hello-answer", "letter", "offer", "promise", "receipt", "record",
        "store-ack", "tls-leaf",
    ]  # fmt: skip


def test_signed_bytes_and_signature() -> None:
    assert signed_bytes(Purpose.RECORD, OPEN_ID, b"body").hex() == (
        "0000000e73686f616c2f7265636f72642f31"
        "00000020bc0eea440496399be16d68faab95a092028deafcedfd1daeae843a9b37fd69b3"
        "00000004626f6479"
    )
    signature = PEER.sign(Purpose.HELLO, PRIVATE_ID, b"body")
    assert signature.hex() == (
        "1b080d18728dea957ac85967d45cd0337a887c5b6e6228ad9a68c891dc0e2800"
        "3bfb3d748ded7970746e8d5c8572ec7e073f48e937540a6b24ca0e09d536df09"
    )
    assert verify(PEER.public_key, signature, Purpose.HELLO, PRIVATE_ID, b"body")


def test_derived_keys() -> None:
    assert OPEN.derive("label", b"context").hex() == (
        "d55902f5dfaa9d3b7e58c09b303486f5bdc148e7441cadda10f70d1f7155edb0"
    )
    assert PRIVATE.derive("label", b"context", length=48).hex() == (
        "2180e2d040970bb59359057d6024fd2aeb23c15b77deb8a434ba654a38ada66e"
        "ef42a2561124f106187eac23604be876"
    )


def test_invites() -> None:
    nodes = (
        BootstrapNode(Address("192.0.2.1", 4100), PEER.peer_id),
        BootstrapNode(Address("2001:db8::1", 4100)),
    )
    file = NetworkFile(PRIVATE, nodes, "amqp://host:5672/shoal")
    assert make_invite(file) == INVITE
    assert parse_invite(INVITE) == file
    assert make_invite(NetworkFile(OPEN, ())) == "shoal1-lKVzaG9hbMCQwCNOL5E"


def test_the_authority_follows_from_the_network() -> None:
    key, certificate = tls._authority(PRIVATE)
    assert certificate.subject.rfc4514_string() == "CN=shoal network 0cd28372f773ac91"
    assert f"{key.private_numbers().private_value:064x}" == (
        "983742413367c5b020c11c562430890f5e1bee1ba997d205c248ed235316a0bd"
    )


def test_the_leaf_has_the_documented_fields() -> None:
    made = tls.make_tls(PEER, PRIVATE)
    leaf = x509.load_pem_x509_certificate(made.certificate_pem)
    name = "kzdvvj2umnduyauf35o36k6kw462mujv.shoal"
    assert leaf.subject.rfc4514_string() == f"CN={name}"
    assert leaf.not_valid_before_utc.isoformat() == "2020-01-01T00:00:00+00:00"
    assert leaf.not_valid_after_utc.isoformat() == "9999-12-31T23:59:59+00:00"
    binding = leaf.extensions.get_extension_for_oid(
        x509.ObjectIdentifier("2.25.78618778621712781328220320793568796158")
    )
    assert isinstance(binding.value, x509.UnrecognizedExtension)
    assert binding.value.value[:34] == b"\x04\x60" + PEER.public_key
    assert len(binding.value.value) == 98
    assert not binding.critical
