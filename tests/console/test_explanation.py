from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from console.explanation import came_back, explanation_lines, hop_row, reasons, verdict_lines
from console.text import is_plain

FORGED = "a\tb\n[/red]\x1b[31m\u202etxt.exe"
AT = 1_767_225_600.0  # 2026-01-01T00:00:00Z
RECORD = {
    "name": "a.txt",
    "content_id": "b3:" + "0" * 64,
    "size": 1234,
    "publisher": "b" * 32,
    "nickname": "bob",
    "expires": "2026-01-01T05:30:00Z",
    "on_closest": 3,
    "reachable": True,
    "address": "192.0.2.1:4100",
}
SUMMARY = {
    "what": "a.txt",
    "kind": "name",
    "found": 0,
    "asked": 5,
    "answered": 4,
    "closest": 4,
    "took_ms": 12.3,
    "silent": 1,
    "records": [],
}


def summary(**changes: Any) -> dict[str, Any]:
    return {**SUMMARY, **changes}


def verdict(**changes: Any) -> str:
    return verdict_lines(summary(**changes))[0]


def test_hop_is_said_in_a_few_words() -> None:
    answered = {"outcome": "answered", "records": 1, "contacts": 20, "rejected": {}}
    assert came_back(answered) == "1 record, 20 peers"
    assert came_back({**answered, "outcome": "late"}) == "late: 1 record, 20 peers"
    assert came_back({"outcome": "answered"}) == "nothing new"
    assert came_back({"outcome": "silent", "text": "1.2.3.4:5 does not answer"}) == "silent"
    assert came_back({"outcome": "silent", "text": "not who we asked for"}) == (
        "silent: not who we asked for"
    )
    refused = {"outcome": "answered", "rejected": {"record-key": 1, "record-signature": 2}}
    assert came_back(refused) == "rejected: 2 bad signature, 1 wrong key"
    passed = {"outcome": "passed-over", "text": "crowded"}
    assert came_back(passed) == "not asked: its address block has its share"
    assert reasons({"of-a-newer-peer": 1}) == "1 of-a-newer-peer"


def test_row_shortens_ids_and_times() -> None:
    row = hop_row({"hop": 1, "id": "k" * 32, "named_by": "l" * 32, "took_ms": 1.26})
    assert (row["peer"], row["named_by"], row["took_ms"]) == ("k" * 8, "l" * 8, "1.3")
    assert hop_row({"took_ms": 2000.4})["took_ms"] == "2000"
    assert hop_row({"took_ms": None})["took_ms"] is None


def test_record_is_told_with_its_publisher_its_place_and_its_end() -> None:
    text = "\n".join(explanation_lines(summary(found=1, records=[RECORD]), wall_s=AT))
    assert "a.txt  1.23 kB  by bob (bbbbbbbb)" in text
    assert "on 3 of the 4 closest peers, expires in 5 h 30 min" in text
    assert "the publisher answers at 192.0.2.1:4100" in text
    assert "found: 1 record of the name 'a.txt', published by 1 peer" in text
    lost = {**RECORD, "reachable": False, "trouble": "it is away", "outdated_on": 2}
    text = "\n".join(explanation_lines(summary(found=3, records=[lost]), wall_s=AT))
    assert "the publisher is not reached: it is away" in text
    assert "an older version of it on 2 peers" in text
    assert "none of them can be reached now" in text
    assert "and 2 more" in text


def test_why_nothing_is_found_is_told_apart() -> None:
    assert verdict() == "not found: none of the 4 closest peers has a record of the name 'a.txt'"
    assert "no other peer is known" in verdict(asked=0, answered=0)
    assert "none answers" in verdict(answered=0)
    gone = {**RECORD, "withdrawn": True}
    assert "was withdrawn by bob (bbbbbbbb)" in verdict(records=[gone])
    lines = verdict_lines(summary(rejected={"record-ahead": 1}))
    assert lines[1] == "rejected: 1 issued in the future"
    assert "doctor" in lines[2]
    assert "1 silent peer may have" in lines[3]
    assert lines[4] == "asked 5 peers in 12 ms: 4 answered, 1 silent"
    lines = verdict_lines(summary(found=1, hot=True, passed_over=2, records=[RECORD]))
    assert lines[1].startswith("the word is hot")
    assert lines[2] == "not asked though near enough: 2 peers"
    assert "this peer is one of the closest" in verdict_lines(summary(own_place=2))[-1]


remote = st.text(max_size=40) | st.just(FORGED)


@given(remote, remote, remote, remote)
def test_remote_text_forges_no_line_and_moves_no_cursor(
    name: str, nickname: str, address: str, trouble: str
) -> None:
    record = {**RECORD, "name": name, "nickname": nickname, "address": address}
    lost = {**record, "reachable": False, "trouble": trouble, "publisher": name}
    gone = {**record, "withdrawn": True, "content_id": name, "expires": name}
    fields = summary(what=name, kind=name, records=[record, lost, gone], rejected={name: 1})
    said = [*explanation_lines(fields, wall_s=AT), *verdict_lines(fields)]
    said += [str(each) for each in hop_row({"id": name, "named_by": name}).values()]
    said.append(came_back({"outcome": name, "text": trouble}))
    assert all(is_plain(line) for line in said)
