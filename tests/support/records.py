"""Identities, payloads and records for the tests of the DHT's pure modules."""

from hypothesis import strategies as st

from dht.records import (
    ContentPayload,
    MailPayload,
    NamePayload,
    Payload,
    PeerPayload,
    Record,
    WordPayload,
    in_shard,
    sign_record,
)
from dht.words import words_of
from identity.address import Address
from identity.keys import Identity

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NETWORK_ID = bytes(range(32))
OTHER_NETWORK_ID = bytes(range(1, 33))
ALICE = Identity.from_seed(b"a" * 32)
BOB = Identity.from_seed(b"b" * 32)
CAROL = Identity.from_seed(b"c" * 32)
CONTENT_ID = b"\x33" * 32
HERE = Address("192.0.2.7", 4100)


def one_of_each_kind() -> list[Payload]:
    """Give a payload of every kind, and the `peer` record's second key."""
    return [
        NamePayload("Linear Algebra.pdf", CONTENT_ID, 1_000_000, (HERE,)),
        ContentPayload(CONTENT_ID, (HERE, Address("2001:db8::7", 4100))),
        WordPayload("algebra", "Linear Algebra.pdf", CONTENT_ID, 1_000_000),
        PeerPayload("alice", (HERE,), b"\x44" * 32, NOW_MS + DAY_MS),
        PeerPayload("alice", (HERE,), b"\x44" * 32, NOW_MS + DAY_MS, under_nickname=True),
        MailPayload(BOB.peer_id, (HERE,)),
        in_shard(WordPayload("algebra", "Linear Algebra.pdf", CONTENT_ID, 1_000_000)),
    ]


def signed(
    payload: Payload,
    *,
    identity: Identity = ALICE,
    network_id: bytes = NETWORK_ID,
    sequence: int = NOW_MS,
    issued_ms: int = NOW_MS,
    expires_ms: int | None = None,
    withdrawn: bool = False,
) -> Record:
    """Sign a payload with defaults that are good at NOW_MS."""
    return sign_record(
        identity,
        network_id,
        payload,
        sequence=sequence,
        issued_ms=issued_ms,
        expires_ms=expires_ms,
        withdrawn=withdrawn,
    )


def _fits(size_bytes: int, text: str) -> bool:
    return 0 < len(text.encode()) <= size_bytes


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1)
filenames = texts.filter(lambda text: _fits(255, text) and text not in {".", ".."})
nicknames = texts.filter(lambda text: _fits(64, text))
naturals = st.integers(0, 2**63 - 1)
digests = st.binary(min_size=32, max_size=32)
hosts = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z]{1,20}(\.[a-z]{1,20}){1,3}", fullmatch=True),
)
addresses = st.lists(st.builds(Address, hosts, st.integers(1, 65535)), max_size=4).map(tuple)


@st.composite
def word_payloads(draw: st.DrawFn) -> WordPayload:
    """Draw a `word` payload whose word is one of its filename's."""
    filename = draw(filenames.filter(lambda name: bool(words_of(name))))
    word = draw(st.sampled_from(words_of(filename)))
    payload = WordPayload(word, filename, draw(digests), draw(naturals))
    return in_shard(payload) if draw(st.booleans()) else payload


payloads: st.SearchStrategy[Payload] = st.one_of(
    st.builds(NamePayload, filenames, digests, naturals, addresses),
    st.builds(ContentPayload, digests, addresses),
    word_payloads(),
    st.builds(PeerPayload, nicknames, addresses, digests, naturals, st.booleans()),
    st.builds(MailPayload, st.binary(min_size=20, max_size=20), addresses),
)
