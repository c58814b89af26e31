"""Leaves as dishonest members can make them: the authority's key is every member's."""

import datetime
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from identity import tls as module
from identity.keys import Identity
from identity.signing import Purpose
from identity.tls import BINDING_OID, TlsMaterial
from tests.support.identities import identity, network

NETWORK = network()
FOREIGN = network(private=False)


def spki_of(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def member_leaf(
    names: list[str] | None = None,
    binding: Callable[[bytes], bytes] | None = None,
    leaf_key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | None = None,
    hash_algorithm: SHA256 | SHA384 | None = None,
) -> bytes:
    """A leaf of identity 1, honest in all but what is given."""
    me = identity(1)
    key = leaf_key or ec.generate_private_key(ec.SECP256R1())
    authority_key, authority = module._authority(NETWORK)
    value = (binding or honest_binding)(spki_of(key))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC))
    )
    if value:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(BINDING_OID, value), critical=False
        )
    listed = [module.server_name(me.peer_id)] if names is None else names
    if listed:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in listed])
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(authority_key, hash_algorithm or SHA256()).public_bytes(Encoding.DER)


def honest_binding(spki: bytes) -> bytes:
    return bound(identity(1), identity(1).sign(Purpose.TLS_LEAF, NETWORK.network_id, spki))


def bound(peer: Identity, signature: bytes) -> bytes:
    return b"\x04\x60" + peer.public_key + signature


def other_members_key(spki: bytes) -> bytes:
    return bound(identity(2), identity(1).sign(Purpose.TLS_LEAF, NETWORK.network_id, spki))


def other_purpose(spki: bytes) -> bytes:
    return bound(identity(1), identity(1).sign(Purpose.RECORD, NETWORK.network_id, spki))


def other_network(spki: bytes) -> bytes:
    return bound(identity(1), identity(1).sign(Purpose.TLS_LEAF, FOREIGN.network_id, spki))


def copied_from_another_leaf(_: bytes) -> bytes:
    return honest_binding(spki_of(ec.generate_private_key(ec.SECP256R1())))


def forged_tls(
    names: list[str] | None = None, binding: Callable[[bytes], bytes] | None = None
) -> TlsMaterial:
    """Working TLS material around such a leaf."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = x509.load_der_x509_certificate(member_leaf(names, binding, key))
    return TlsMaterial(
        leaf.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        module._authority_pem(NETWORK),
        identity(1).peer_id,
    )
