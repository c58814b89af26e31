"""`put --to` a peer that is online, by real processes: what arrives, who refuses, what is told."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.deliveries import (
    await_received,
    await_state,
    configure,
    digest_of,
    inbox_files,
    send,
    write_file,
)
from tests.support.processes import PeerProcess, private_network, seed_of

CHUNK_BYTES = 512 * 1024
QUOTA_BYTES = 3000
NAMES = [
    "with some spaces.txt",
    "party 🎉🎉.txt",
    "-leading-dash",
    "[red]bold[link].txt",
    "me@home.txt",
    "tricky \u202etxt.exe",
    "Größe und Maß.dat",
    "é" * 127 + "x",  # 255 bytes
]


@dataclass(frozen=True)
class Village:
    """A private network: two plain peers and three that take less."""

    ada: PeerProcess
    bob: PeerProcess
    contacts_only: PeerProcess
    nobody: PeerProcess
    small: PeerProcess


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Village]:
    folder = tmp_path_factory.mktemp("village")
    network = private_network(folder)
    names = ("ada", "bob", "contacts-only", "nobody", "small")
    peers = [PeerProcess(folder, name) for name in names]
    ada, bob, contacts_only, nobody, small = peers
    configure(contacts_only, '[inbox]\naccept = "contacts"\n')
    configure(nobody, '[inbox]\naccept = "none"\n')
    configure(small, f"[inbox]\nquota_bytes = {QUOTA_BYTES}\n")
    with ada, bob, contacts_only, nobody, small:
        ada.join(network=network, listen=seed_of(network))
        for peer in peers[1:]:
            peer.start(network=network)
        for peer in peers[1:]:
            peer.wait_ready()
        yield Village(*peers)


def test_file_to_an_online_peer_is_delivered_identical(village: Village, tmp_path: Path) -> None:
    ada, bob = village.ada, village.bob
    source = write_file(tmp_path, "unmistakable report.bin", 3_000_000)

    sent = send(ada, source, "bob")

    assert sent["state"] == "delivered"
    assert sent["name"] == source.name
    assert sent["held_by"] == []
    (line,) = [x for x in bob.json("inbox") if x["delivery_id"] == sent["delivery_id"]]
    assert line["name"] == source.name
    assert line["from"] == ada.id
    assert line["size"] == 3_000_000
    assert line["state"] == "received"
    assert Path(line["path"]).parent == bob.home / "inbox"
    assert digest_of(line["path"]) == digest_of(source)
    (row,) = [x for x in ada.json("outbox") if x["delivery_id"] == sent["delivery_id"]]
    assert (row["name"], row["to"], row["state"]) == (source.name, bob.id, "delivered")
    assert row["held_by"] == []
    assert row["expires"] == sent["expires"]


def test_what_is_sent_is_found_by_no_search_and_shared_by_nobody(
    village: Village, tmp_path: Path
) -> None:
    send(village.ada, write_file(tmp_path, "xylophone.txt", 100), "bob")
    for peer in (village.ada, village.bob, village.small):
        done = peer.run("search", "xylophone")
        assert (done.code, done.stdout) == (0, "")
    assert village.bob.run("get", "xylophone.txt").code == 3
    for peer in (village.ada, village.bob):
        assert peer.json("shares") == []


def test_names_arrive_as_they_are(village: Village, tmp_path: Path) -> None:
    sources = [write_file(tmp_path, name, 50, seed) for seed, name in enumerate(NAMES)]
    sent = village.ada.json("put", "--to", "bob", "--", *map(str, sources))
    assert [item["name"] for item in sent] == NAMES
    lines = {line["delivery_id"]: line for line in village.bob.json("inbox")}
    for source, item in zip(sources, sent, strict=True):
        line = lines[item["delivery_id"]]
        assert Path(line["path"]).name == line["name"] == source.name
        assert digest_of(line["path"]) == digest_of(source)


def test_sizes_around_a_chunk_arrive_whole(village: Village, tmp_path: Path) -> None:
    sizes = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES + 7]
    sources = [write_file(tmp_path, f"size {size}", size) for size in sizes]
    sent = village.ada.json("put", *map(str, sources), "--to", "bob")
    lines = {line["delivery_id"]: line for line in village.bob.json("inbox")}
    for source, size, item in zip(sources, sizes, sent, strict=True):
        line = lines[item["delivery_id"]]
        assert line["size"] == Path(line["path"]).stat().st_size == size
        assert digest_of(line["path"]) == digest_of(source)


def test_a_second_file_of_one_name_replaces_nothing(village: Village, tmp_path: Path) -> None:
    first = write_file(tmp_path / "1", "twice.txt", 200, seed=1)
    second = write_file(tmp_path / "2", "twice.txt", 200, seed=2)
    one, two = send(village.ada, first, "bob"), send(village.ada, second, "bob")
    lines = {line["delivery_id"]: line for line in village.bob.json("inbox")}
    path_one, path_two = (Path(lines[sent["delivery_id"]]["path"]) for sent in (one, two))
    assert (path_one.name, path_two.name) == ("twice.txt", "twice (2).txt")
    assert digest_of(path_one) == digest_of(first)
    assert digest_of(path_two) == digest_of(second)


@pytest.mark.parametrize("form", ["nickname", "id", "eight characters"])
def test_recipient_may_be_named_in_three_ways(form: str, village: Village, tmp_path: Path) -> None:
    bob = village.bob
    text = {"nickname": "bob", "id": bob.id, "eight characters": bob.id[:8]}[form]
    sent = send(village.ada, write_file(tmp_path, "named.txt", 10), text, "--wait")
    assert (sent["state"], sent["to"]) == ("delivered", bob.id)


def test_output_of_put_to_is_one_tab_separated_line(village: Village, tmp_path: Path) -> None:
    source = write_file(tmp_path, "one line.txt", 10)
    done = village.ada.run("put", source.name, "--to", "bob", "--as", "as given.txt")
    assert done.code == 2  # a relative path is the command's, and there is none in its folder
    (village.ada.folder / source.name).write_bytes(source.read_bytes())
    done = village.ada.run("put", source.name, "--to", "bob", "--as", "as given.txt")
    assert (done.code, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    fields = line.split("\t")
    assert fields[1:3] == ["as given.txt", "delivered"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["{source}", "--to", "stranger"], 3),
        (["{source}", "--to", "abcdefgh"], 3),
        (["{source}", "--to", "a" * 32], 3),
        (["{source}", "--to", "{self}"], 2),
        (["{source}", "--to", "bob", "--as", "../x"], 6),
        (["{source}", "--to", "bob", "--as", "."], 6),
        (["{source}", "--to", "bob", "--as", "[/red].txt"], 6),
        (["{source}", "--to", "bob", "--as", "a\nb"], 6),
        (["{source}", "--to", "bob", "--as", "nul"], 6),
        (["{source}", "--to", "bob", "--as", "x" * 256], 6),
        (["{folder}/missing", "--to", "bob"], 2),
        (["{source}", "--to", "bob", "--expires", "31d"], 2),
        (["{source}", "--to", "bob", "--expires", "0s"], 2),
    ],
)
def test_bad_input_ends_with_its_code_and_sends_nothing(
    arguments: list[str], code: int, village: Village, tmp_path: Path
) -> None:
    source = write_file(tmp_path, "fine.txt", 10)
    before = len(village.ada.json("outbox")), inbox_files(village.bob)
    words = [word.format(source=source, folder=tmp_path, self=village.ada.id) for word in arguments]
    done = village.ada.run("put", *words)
    assert done.code == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("shoal: ")
    assert "Traceback" not in done.stderr
    assert (len(village.ada.json("outbox")), inbox_files(village.bob)) == before


def test_peer_that_takes_no_files_says_so_to_the_sender(village: Village, tmp_path: Path) -> None:
    done = village.ada.run("put", str(write_file(tmp_path, "no.txt", 10)), "--to", "nobody")
    assert done.code == 6
    assert "refused" in done.stderr
    assert "hint: " in done.stderr
    assert inbox_files(village.nobody) == []


def test_contacts_may_send_where_only_contacts_may(village: Village, tmp_path: Path) -> None:
    source = write_file(tmp_path, "from a contact.txt", 10)
    recipient = village.contacts_only
    done = village.bob.run("put", str(source), "--to", "contacts-only")
    assert done.code == 6
    assert "contacts only" in done.stderr
    assert inbox_files(recipient) == []

    recipient.json("contact", "add", "bobby", village.bob.id)

    sent = send(village.bob, source, "contacts-only")
    assert sent["state"] == "delivered"
    assert village.ada.run("put", str(source), "--to", "contacts-only").code == 6

    recipient.json("contact", "remove", "bobby")

    assert village.bob.run("put", str(source), "--to", "contacts-only").code == 6
    assert inbox_files(recipient) == [source.name]


def test_full_inbox_is_told_to_the_sender(village: Village, tmp_path: Path) -> None:
    fits = write_file(tmp_path, "fits", QUOTA_BYTES - 1000)
    too_large = write_file(tmp_path, "does not fit any more", 1001)
    assert send(village.ada, fits, "small")["state"] == "delivered"
    done = village.ada.run("put", str(too_large), "--to", "small")
    assert done.code == 7, done.stderr
    assert "quota" in done.stderr
    listed = village.small.json("inbox")
    assert [line["name"] for line in listed] == ["fits"]
    (village.small.home / "inbox" / "fits").unlink()
    assert send(village.ada, too_large, "small")["state"] == "delivered"


def test_recipient_killed_in_the_middle_gets_the_file_once(tmp_path: Path) -> None:
    network = private_network(tmp_path)
    source = write_file(tmp_path, "interrupted.bin", 64 * 1024 * 1024)
    with PeerProcess(tmp_path, "ada") as ada, PeerProcess(tmp_path, "bob") as bob:
        ada.join(network=network, listen=seed_of(network))
        bob.join(network=network)
        assert send(ada, write_file(tmp_path, "first", 1), "bob")["state"] == "delivered"
        killing = threading.Thread(target=_kill_when_bytes_arrive, args=(bob,))
        killing.start()
        sent = send(ada, source, "bob")
        killing.join()
        assert sent["state"] == "spooled"
        assert any(name.endswith(".part") for name in inbox_files(bob))

        bob.join(network=network)

        line = await_received(bob, sent)
        assert digest_of(line["path"]) == digest_of(source)
        await_state(ada, sent, "delivered")
        assert inbox_files(bob) == ["first", "interrupted.bin"]
        assert len(bob.json("inbox")) == 2


def _kill_when_bytes_arrive(peer: PeerProcess) -> None:
    folder, deadline = peer.home / "inbox", time.monotonic() + 20
    while time.monotonic() < deadline:
        if any(part.stat().st_size > CHUNK_BYTES for part in folder.glob(".shoal-*.part")):
            break
    try:
        peer.kill()
    except subprocess.TimeoutExpired:
        raise AssertionError("a killed process did not end") from None
