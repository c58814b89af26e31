"""The sealed envelope: what a keeper of mail sees, and what only the recipient can open.

Owns the canonical bytes of the outer manifest, the sealing of contents and the opening of letters.
Pure but for the reading of the content in `seal_file`. Must not know stores, wires or clocks.

Layout and reasons stand in docs/protocol/delivery.md. In short: a fresh content key is wrapped by
HPKE for the recipient, with both keys and the seal id in `info`; header and chunks are sealed with
ChaCha20-Poly1305 under that key (chunk nonce = index, header nonce = all ones, so no nonce is used
twice); the outer manifest lists the digests of the sealed chunks and is signed by the sender.

A letter whose name ends in `/` is a folder: its content is the folder as one stream of bytes, whose
format is not known here. Who does not know folders finds that name unsafe, and refuses the letter.
"""

import functools
import os
import secrets
import struct
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from identity.encoding import length_prefixed
from identity.files import read_exactly
from identity.keys import Identity, peer_id_of
from identity.signing import Purpose, verify
from queueing.errors import BadEnvelope, Expired, SourceChanged, TooLarge

SEAL_ID_BYTES = 16
DELIVERY_ID_BYTES = 32
TAG_BYTES = 16
CHUNK_BYTES_MIN = 512 * 1024
CHUNK_BYTES_MAX = 8 * 1024 * 1024
CHUNK_COUNT_MAX = 16_384
PADDED_BYTES_MIN = 4096
PADDED_BYTES_MAX = CHUNK_BYTES_MAX * CHUNK_COUNT_MAX
LIFETIME_MAX_MS = 30 * 24 * 3600 * 1000
NAME_BYTES_MAX = 255
FOLDER_SUFFIX = "/"
MANIFEST_BYTES_MAX = 1024 + 32 * CHUNK_COUNT_MAX

_MAGIC = b"shoal envelope 1"
_WRAPPED_KEY_BYTES = 32 + 32 + TAG_BYTES
_HEADER_BYTES = 512
"""Every sealed header is this long, so that it tells nothing about the name."""
_SEALED_HEADER_BYTES = _HEADER_BYTES + TAG_BYTES
_HEADER_NONCE = b"\xff" * 12
# magic, seal id, sender key, recipient, created, expires, wrapped key, header,
# chunk size, padded size, chunk count; then digests and signature
_FIXED = struct.Struct(f">16s16s32s20sQQ{_WRAPPED_KEY_BYTES}s{_SEALED_HEADER_BYTES}sIQI")
_HEADER = struct.Struct(">32s32sQH")  # content id, content digest, size, name length
_SIGNATURE_BYTES = 64
_SEALERS = 2
"""Threads that seal one file; on more, reading and writing are what takes long."""
_SEALED_AHEAD_MAX = 4
"""Chunks that are sealed, or about to be, and not yet written."""
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)

Sink = Callable[[int, bytes], None]
"""Takes (index, sealed chunk), in order of the index."""


class ContentHasher(Protocol):
    """Finds out what a file's content id is while the file is sealed, so that it is read once."""

    def feed(self, offset: int, content: bytes) -> None:
        """Take the content of one chunk; called from several threads, in any order."""
        ...

    def content_id(self) -> bytes:
        """Return the content id, once all has been fed."""
        ...


@dataclass(frozen=True)  # not slotted: the encoding and its hash are kept once computed
class OuterManifest:
    """All that a keeper of mail sees of a delivery."""

    seal_id: bytes
    sender_key: bytes
    recipient: bytes
    created_ms: int
    expires_ms: int
    wrapped_key: bytes
    sealed_header: bytes
    chunk_bytes: int
    """Size of a chunk before it is sealed; the last one may be smaller."""
    padded_bytes: int
    """Size of the content with its padding."""
    digests: tuple[bytes, ...]
    """BLAKE3 of each sealed chunk."""
    signature: bytes = b""

    @property
    def count(self) -> int:
        """How many chunks there are, at least one."""
        return len(self.digests)

    @property
    def sealed_bytes(self) -> int:
        """Size of all sealed chunks together."""
        return self.padded_bytes + TAG_BYTES * self.count

    @functools.cached_property
    def sender(self) -> bytes:
        """The sender's peer id."""
        return peer_id_of(self.sender_key)

    @functools.cached_property
    def body(self) -> bytes:
        """The canonical bytes that the signature covers."""
        fixed = _FIXED.pack(
            _MAGIC, self.seal_id, self.sender_key, self.recipient, self.created_ms,
            self.expires_ms, self.wrapped_key, self.sealed_header, self.chunk_bytes,
            self.padded_bytes, self.count,
        )  # fmt: skip
        return fixed + b"".join(self.digests)

    @functools.cached_property
    def encoded(self) -> bytes:
        """The canonical bytes with the signature."""
        return self.body + self.signature

    @functools.cached_property
    def delivery_id(self) -> bytes:
        """BLAKE3 of the encoded manifest: 32 bytes."""
        return blake3(self.encoded).digest()

    def sealed_size(self, index: int) -> int:
        """Return the size of one sealed chunk."""
        return self._plain_size(index) + TAG_BYTES

    def sealed_offset(self, index: int) -> int:
        """Return where a sealed chunk starts when all are laid end to end."""
        return index * (self.chunk_bytes + TAG_BYTES)

    def chunk_is_good(self, index: int, sealed: bytes) -> bool:
        """Tell whether these bytes are the sealed chunk that the sender signed for."""
        return 0 <= index < self.count and blake3(sealed).digest() == self.digests[index]

    def check(self, network_id: bytes, now_ms: int) -> None:
        """Check signature and lifetime; raise BadEnvelope or Expired."""
        if not verify(self.sender_key, self.signature, Purpose.ENVELOPE, network_id, self.body):
            raise BadEnvelope("the sender's signature of the envelope is wrong")
        if not 0 < self.expires_ms - self.created_ms <= LIFETIME_MAX_MS:
            raise BadEnvelope("the envelope's lifetime is out of bounds")
        if self.expires_ms <= now_ms:
            raise Expired

    def _plain_size(self, index: int) -> int:
        return min(self.chunk_bytes, self.padded_bytes - index * self.chunk_bytes)


def decode_manifest(data: bytes) -> OuterManifest:
    """Read an outer manifest; BadEnvelope unless it is canonical and within bounds.

    Only its form is judged; `OuterManifest.check` judges signature and lifetime.
    """
    if not _FIXED.size + 32 + _SIGNATURE_BYTES <= len(data) <= MANIFEST_BYTES_MAX:
        raise BadEnvelope("the outer manifest has a wrong size")
    (magic, seal_id, sender_key, recipient, created_ms, expires_ms, wrapped_key, sealed_header,
     chunk_bytes, padded_bytes, count) = _FIXED.unpack_from(data)  # fmt: skip
    if magic != _MAGIC:
        raise BadEnvelope("these bytes are no outer manifest that this version reads")
    digests_end = _FIXED.size + 32 * count
    if digests_end + _SIGNATURE_BYTES != len(data):
        raise BadEnvelope("the outer manifest does not have the size that it claims")
    if not PADDED_BYTES_MIN <= padded_bytes <= PADDED_BYTES_MAX:
        raise BadEnvelope("the content's size is out of bounds")
    if chunk_bytes != chunk_bytes_for(padded_bytes) or count != -(-padded_bytes // chunk_bytes):
        raise BadEnvelope("chunk size or count does not fit the content's size")
    digests = tuple(data[at : at + 32] for at in range(_FIXED.size, digests_end, 32))
    return OuterManifest(
        seal_id, sender_key, recipient, created_ms, expires_ms, wrapped_key, sealed_header,
        chunk_bytes, padded_bytes, digests, data[digests_end:],
    )  # fmt: skip


def padded_size(size_bytes: int) -> int:
    """Return the size to which content is padded: at least 4 KiB, then Padmé (PETS 2019).

    Of the size only the magnitude and a few leading bits stay visible; the overhead is below 12%,
    and falls as sizes grow (3% at 1 GiB).
    """
    if size_bytes <= PADDED_BYTES_MIN:
        return PADDED_BYTES_MIN
    exponent = size_bytes.bit_length() - 1
    hidden_bits = exponent - exponent.bit_length()
    mask = (1 << hidden_bits) - 1
    return (size_bytes + mask) & ~mask


def chunk_bytes_for(padded_bytes: int) -> int:
    """Return the chunk size for content of this padded size: 512 KiB, doubled while too many."""
    chunk_bytes = CHUNK_BYTES_MIN
    while padded_bytes > chunk_bytes * CHUNK_COUNT_MAX:
        chunk_bytes *= 2
    return chunk_bytes


@dataclass(frozen=True, slots=True)
class Letter:
    """What the recipient reads in an envelope."""

    manifest: OuterManifest
    sender_id: bytes
    name: str
    """As the sender wrote it: the receiving peer must check that it is a safe file name."""
    content_id: bytes
    content_digest: bytes
    """BLAKE3 of the content, for checking the whole without a manifest."""
    size: int
    content_key: bytes = field(repr=False)
    is_folder: bool = False
    """The content is a folder's stream, and the content id the folder's."""

    @property
    def seal_id(self) -> bytes:
        """The sender's random id; with the sender's id it names the letter for ever."""
        return self.manifest.seal_id


class Content(Protocol):
    """What is sealed, read once from its first byte to its last; used from one thread."""

    def read(self, length_bytes: int, /) -> bytes:
        """Return the next bytes, fewer only at the end."""
        ...

    def check(self) -> None:
        """Raise an error where what was read is not what was there at the beginning."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


Source = Path | Callable[[], Content]
"""A file, or what opens another content."""


def seal_file(
    identity: Identity,
    network_id: bytes,
    recipient_id: bytes,
    recipient_sealing_key: bytes,
    source: Source,
    name: str,
    content_id: bytes | ContentHasher,
    size: int,
    *,
    created_ms: int,
    expires_ms: int,
    seal_id: bytes,
    sink: Sink,
    is_folder: bool = False,
) -> OuterManifest:
    """Seal a content chunk by chunk into `sink`; blocks, so call it in a thread.

    Reads it once, and holds a few chunks at a time. The header, with the content id, is sealed
    last. TooLarge, SourceChanged; OSError when a file cannot be read, and what a content of another
    kind raises.
    """
    assert not name.endswith(FOLDER_SUFFIX), "that is no name: it would make a folder of a file"
    padded_bytes = padded_size(size)
    if padded_bytes > PADDED_BYTES_MAX:
        raise TooLarge
    content_key = secrets.token_bytes(32)
    cipher = ChaCha20Poly1305(content_key)
    hasher = None if isinstance(content_id, bytes) else content_id
    content = _FileContent(source, size) if isinstance(source, Path) else _Streamed(source())
    try:
        digests, content_digest = _seal_chunks(cipher, content, size, seal_id, sink, hasher)
    finally:
        content.close()
    info = _wrap_info(network_id, identity.public_key, recipient_sealing_key, seal_id)
    shown = name + FOLDER_SUFFIX if is_folder else name
    header = _header_bytes(known_id(content_id), content_digest, size, shown)
    signature = identity.sign(Purpose.LETTER, network_id, info + header)
    sealed_header = cipher.encrypt(
        _HEADER_NONCE, (header + signature).ljust(_HEADER_BYTES, b"\0"), info
    )
    recipient_key = X25519PublicKey.from_public_bytes(recipient_sealing_key)
    wrapped_key = _SUITE.encrypt(content_key, recipient_key, info=info)
    unsigned = OuterManifest(
        seal_id, identity.public_key, recipient_id, created_ms, expires_ms, wrapped_key,
        sealed_header, chunk_bytes_for(padded_bytes), padded_bytes, digests,
    )  # fmt: skip
    return sign_manifest(identity, network_id, unsigned)


def known_id(content_id: bytes | ContentHasher) -> bytes:
    """Return a content id that is known by now."""
    return content_id if isinstance(content_id, bytes) else content_id.content_id()


def sign_manifest(identity: Identity, network_id: bytes, manifest: OuterManifest) -> OuterManifest:
    """Return the manifest with the sender's signature over its body."""
    signature = identity.sign(Purpose.ENVELOPE, network_id, manifest.body)
    return decode_manifest(manifest.body + signature)


def open_letter(identity: Identity, network_id: bytes, manifest: OuterManifest) -> Letter:
    """Unwrap the key and read the header of a letter to this identity; BadEnvelope."""
    if manifest.recipient != identity.peer_id:
        raise BadEnvelope("the envelope is for another peer")
    info = _wrap_info(
        network_id, manifest.sender_key, identity.sealing_public_key, manifest.seal_id
    )
    try:
        content_key = _SUITE.decrypt(manifest.wrapped_key, identity.sealing_private_key, info=info)
        plain = ChaCha20Poly1305(content_key).decrypt(_HEADER_NONCE, manifest.sealed_header, info)
    except (InvalidTag, ValueError) as error:
        raise BadEnvelope("the envelope cannot be opened with this peer's key") from error
    content_id, content_digest, size, name_bytes = _HEADER.unpack_from(plain)
    header_end = _HEADER.size + name_bytes
    header, signature = plain[:header_end], plain[header_end : header_end + _SIGNATURE_BYTES]
    if not verify(manifest.sender_key, signature, Purpose.LETTER, network_id, info + header):
        raise BadEnvelope("the sender's signature inside the envelope is wrong")
    if size > manifest.padded_bytes:
        raise BadEnvelope("the letter is larger than its envelope")
    try:
        name = header[_HEADER.size :].decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadEnvelope("the letter's file name is not UTF-8") from error
    is_folder = name.endswith(FOLDER_SUFFIX)
    return Letter(
        manifest, manifest.sender, name.removesuffix(FOLDER_SUFFIX), content_id, content_digest,
        size, content_key, is_folder,
    )  # fmt: skip


def open_chunk(letter: Letter, index: int, sealed: bytes) -> bytes:
    """Return the content of one sealed chunk, without padding (maybe empty); BadEnvelope.

    What alters it, or puts it in another's place, is found by the cipher: its digest, which every
    store has checked before it hands a chunk out, is not taken again.
    """
    manifest = letter.manifest
    context = _chunk_context(manifest.seal_id, index, manifest.count)
    try:
        plain = ChaCha20Poly1305(letter.content_key).decrypt(_chunk_nonce(index), sealed, context)
    except InvalidTag as error:
        raise BadEnvelope("a sealed chunk cannot be opened") from error
    return plain[: max(0, letter.size - index * manifest.chunk_bytes)]


def _seal_chunks(
    cipher: ChaCha20Poly1305,
    content: "_FileContent | _Streamed",
    size: int,
    seal_id: bytes,
    sink: Sink,
    hasher: ContentHasher | None,
) -> tuple[tuple[bytes, ...], bytes]:
    """Pad and seal the content into the sink; return the chunks' digests and the content's."""
    padded_bytes = padded_size(size)
    chunk_bytes = chunk_bytes_for(padded_bytes)
    count = -(-padded_bytes // chunk_bytes)
    digests: list[bytes] = []
    content_hash = blake3()

    def seal(index: int, wanted: int, reading: Callable[[], bytes]) -> tuple[bytes, bytes, bytes]:
        plain = reading()
        if hasher is not None and plain:
            hasher.feed(index * chunk_bytes, plain)
        context = _chunk_context(seal_id, index, count)
        sealed = cipher.encrypt(_chunk_nonce(index), plain.ljust(wanted, b"\0"), context)
        return plain, sealed, blake3(sealed).digest()

    def write(sealing: Future[tuple[bytes, bytes, bytes]]) -> None:
        plain, sealed, digest = sealing.result()
        content_hash.update(plain)
        sink(len(digests), sealed)
        digests.append(digest)

    # Reads, hashes and cipher let go of the interpreter: this thread writes, others seal.
    with ThreadPoolExecutor(_SEALERS, "seal") as sealers:
        ahead: deque[Future[tuple[bytes, bytes, bytes]]] = deque()
        for index in range(count):
            offset = index * chunk_bytes
            wanted = min(chunk_bytes, padded_bytes - offset)
            reading = content.reading(offset, min(wanted, max(0, size - offset)))
            ahead.append(sealers.submit(seal, index, wanted, reading))
            if len(ahead) > _SEALED_AHEAD_MAX:
                write(ahead.popleft())
        while ahead:
            write(ahead.popleft())
        content.check()
    return tuple(digests), content_hash.digest()


def _wrap_info(network_id: bytes, sender_key: bytes, sealing_key: bytes, seal_id: bytes) -> bytes:
    return length_prefixed(b"shoal/seal/1", network_id, sender_key, sealing_key, seal_id)


def _chunk_nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")


def _chunk_context(seal_id: bytes, index: int, count: int) -> bytes:
    return seal_id + struct.pack(">II", index, count)


def _header_bytes(content_id: bytes, content_digest: bytes, size: int, name: str) -> bytes:
    name_utf8 = name.encode("utf-8")
    if not 0 < len(name_utf8.removesuffix(FOLDER_SUFFIX.encode())) <= NAME_BYTES_MAX:
        raise TooLarge(
            f"a file name has 1 to {NAME_BYTES_MAX} bytes", hint="choose another with --as"
        )
    return _HEADER.pack(content_id, content_digest, size, len(name_utf8)) + name_utf8


class _FileContent:
    """A file whose size and time of change must stay what they were."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._file = path.open("rb")
        self._size_bytes = size_bytes
        self._before = self._fingerprint()

    def reading(self, offset: int, length_bytes: int) -> Callable[[], bytes]:
        """Return what reads a span, in any thread and order."""
        return functools.partial(read_exactly, self._file.fileno(), offset, length_bytes)

    def check(self) -> None:
        if self._fingerprint() != self._before or self._before[0] != self._size_bytes:
            raise SourceChanged

    def close(self) -> None:
        self._file.close()

    def _fingerprint(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns


class _Streamed:
    """A content that is read in order, when a span is asked for."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self.check, self.close = content.check, content.close

    def reading(self, _offset: int, length_bytes: int) -> Callable[[], bytes]:
        data = self._content.read(length_bytes)
        return lambda: data
