"""Certificates: a network's authority, and leaves that are bound to a peer's key.

Owns: how the authority follows from the network key, the leaf's fields, the binding extension.
Must not know: gRPC, sockets, or which peers exist.

Whoever has the network key has the authority's key, so a leaf's chain proves membership only.
Who the member is follows from the binding: the peer's own signature over the leaf's public key.
"""

import datetime
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from identity.errors import BadKeyFile, ForeignCertificate
from identity.files import read_private, replace_private
from identity.keys import Identity, peer_id_of, show_peer_id
from identity.network import Network
from identity.signing import Purpose, verify

# An arc made from a random UUID (ITU-T X.667), since nobody has to register those.
BINDING_OID: Final = x509.ObjectIdentifier("2.25.78618778621712781328220320793568796158")
NAME_SUFFIX: Final = ".shoal"
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
# A DER octet string of exactly the public key and the signature.
BINDING_HEADER: Final = bytes([0x04, PUBLIC_KEY_BYTES + SIGNATURE_BYTES])
# Fixed dates: neither a wrong clock nor age ever takes a peer out of its network.
VALID_FROM: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
VALID_TO: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
TLS_FILE_BYTES_MAX: Final = 16 * 1024
CERTIFICATE_BYTES_MAX: Final = 8 * 1024
AUTHORITIES_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What a peer needs to speak TLS in its network, as PEM."""

    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)
    ca_pem: bytes
    peer_id: bytes


def server_name(peer_id: bytes) -> str:
    """Return the name that a peer's leaf carries: ``<peer id>.shoal``."""
    return show_peer_id(peer_id) + NAME_SUFFIX


def make_tls(identity: Identity, network: Network) -> TlsMaterial:
    """Make a new leaf that is kept nowhere."""
    key = ec.generate_private_key(ec.SECP256R1())
    return _material(_build_leaf(identity, network, key), key, network)


def load_or_create_tls(folder: Path, identity: Identity, network: Network) -> TlsMaterial:
    """Load tls.key and tls.crt from the folder, or make them anew.

    The same bytes come back after each restart, so that pins held by others stay good. They are
    remade when they are missing, damaged, or belong to another identity or network.
    Raises BadKeyFile when they cannot be written.
    """
    kept = _load(folder, identity, network)
    if kept is not None:
        return kept
    made = make_tls(identity, network)
    try:
        replace_private(folder / "tls.key", made.private_key_pem)
        replace_private(folder / "tls.crt", made.certificate_pem)
    except OSError as error:
        raise BadKeyFile(
            f"cannot write tls.key and tls.crt in {folder}: {error.strerror or error}",
            hint="choose a folder that you may write to, with --home",
        ) from error
    return made


def verify_leaf(certificate_der_or_pem: bytes, network: Network) -> tuple[bytes, bytes]:
    """Return (peer id, public key) of a member's leaf.

    Checks the authority's signature, the binding, and that the leaf names this peer only.
    Raises ForeignCertificate for anything else, whatever the bytes.
    """
    try:
        return _verify_leaf(certificate_der_or_pem, network)
    except InvalidSignature as error:
        raise ForeignCertificate from error
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.ExtensionNotFound,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise ForeignCertificate("the certificate is malformed") from error


def _verify_leaf(data: bytes, network: Network) -> tuple[bytes, bytes]:
    if len(data) > CERTIFICATE_BYTES_MAX:
        raise ForeignCertificate("the certificate is too large")
    is_pem = data.startswith(b"-----BEGIN")
    leaf = x509.load_pem_x509_certificate(data) if is_pem else x509.load_der_x509_certificate(data)
    authority_key, authority = _authority(network)
    if leaf.issuer != authority.subject or not isinstance(leaf.signature_hash_algorithm, SHA256):
        raise ForeignCertificate
    authority_key.public_key().verify(
        leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(SHA256())
    )
    leaf_key = leaf.public_key()
    if not isinstance(leaf_key, ec.EllipticCurvePublicKey):
        raise ForeignCertificate("the certificate has a key of another kind")
    spki = leaf_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    public_key, signature = _binding_of(leaf)
    if not verify(public_key, signature, Purpose.TLS_LEAF, network.network_id, spki):
        raise ForeignCertificate("the certificate is not signed by the peer that it names")
    peer_id = peer_id_of(public_key)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if list(names) != [x509.DNSName(server_name(peer_id))]:
        raise ForeignCertificate("the certificate names another peer")
    return peer_id, public_key


def _binding_of(leaf: x509.Certificate) -> tuple[bytes, bytes]:
    extension = leaf.extensions.get_extension_for_oid(BINDING_OID).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    value = extension.value
    body = value.removeprefix(BINDING_HEADER)
    if not value.startswith(BINDING_HEADER) or len(body) != PUBLIC_KEY_BYTES + SIGNATURE_BYTES:
        raise ForeignCertificate("the certificate has a malformed binding")
    return body[:PUBLIC_KEY_BYTES], body[PUBLIC_KEY_BYTES:]


def _load(folder: Path, identity: Identity, network: Network) -> TlsMaterial | None:
    try:
        key_pem = read_private(folder / "tls.key", TLS_FILE_BYTES_MAX)
        certificate_pem = read_private(folder / "tls.crt", TLS_FILE_BYTES_MAX)
        peer_id, _ = verify_leaf(certificate_pem, network)
        key = load_pem_private_key(key_pem, password=None)
        leaf = x509.load_pem_x509_certificate(certificate_pem)
    except (OSError, ForeignCertificate, ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if peer_id != identity.peer_id or key.public_key() != leaf.public_key():
        return None
    return TlsMaterial(certificate_pem, key_pem, _authority_pem(network), peer_id)


def _material(
    leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey, network: Network
) -> TlsMaterial:
    certificate_pem = leaf.public_bytes(Encoding.PEM)
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    peer_id, _ = verify_leaf(certificate_pem, network)
    return TlsMaterial(certificate_pem, key_pem, _authority_pem(network), peer_id)


def _build_leaf(
    identity: Identity, network: Network, key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signature = identity.sign(Purpose.TLS_LEAF, network.network_id, spki)
    binding = BINDING_HEADER + identity.public_key + signature
    name = server_name(identity.peer_id)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    authority_key, authority = _authority(network)
    return (
        _builder(_name(name), authority.subject, key.public_key(), x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(BINDING_OID, binding), critical=False)
        .sign(authority_key, SHA256())
    )


@lru_cache(maxsize=AUTHORITIES_MAX)
def _authority(network: Network) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Build the network's authority. Every member builds the same key and name, so any one's
    leaf passes under any other's copy of the certificate."""
    # 16 bytes more than the order needs, so that the reduction favours no number noticeably.
    scalar = int.from_bytes(network.derive("tls-authority", network.network_id, length=48), "big")
    key = ec.derive_private_key(scalar % (P256_ORDER - 1) + 1, ec.SECP256R1())
    # Derived too: any caller sees this name, and the network id is none of an outsider's business.
    label = network.derive("tls-authority-name", network.network_id, length=8).hex()
    name = _name(f"shoal network {label}")
    certificate = (
        _builder(name, name, key.public_key(), serial=1)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, SHA256())
    )
    return key, certificate


def _authority_pem(network: Network) -> bytes:
    return _authority(network)[1].public_bytes(Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, serial: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(VALID_FROM)
        .not_valid_after(VALID_TO)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
