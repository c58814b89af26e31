from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dht.clock import OFFSET_MIN_MS
from identity.address import Address
from identity.keys import show_peer_id
from peer.checkup import (
    CLOCK_WARNING_MS,
    DROPS_WARNING_MIN,
    LAG_WARNING_MS,
    SPACE_WARNING_FACTOR,
    Attempt,
    NodeFound,
    PortState,
    SecretFile,
    Space,
    Tls,
    judge_clock,
    judge_contacts,
    judge_disk,
    judge_drops,
    judge_free_port,
    judge_home,
    judge_lag,
    judge_node,
    judge_own_port,
    judge_reachability,
)
from peer.views import CheckState, CheckView

NODE = Address("192.0.2.1", 4100)
PUBLIC = Address("198.51.100.7", 4100)
PEER, OTHER = b"p" * 20, b"o" * 20
ANSWERS = NodeFound(NODE, NODE, None, udp_id=PEER, udp_ms=1.0, tls=Tls.OURS, tls_id=PEER)
HOUR_MS = 3_600_000


def state(check: CheckView) -> CheckState:
    """The state; whatever is wrong comes with a remedy, and what is fine needs none."""
    found = CheckState(check.state)
    if found in (CheckState.WARNING, CheckState.PROBLEM):
        assert check.remedy
    if found is CheckState.OK:
        assert not check.remedy
    assert check.seen
    return found


def test_home_must_be_writable_and_its_secrets_closed() -> None:
    closed, opened = SecretFile("key", 0o100600), SecretFile("network.json", 0o100640)
    absent = SecretFile("tls.key", None)

    def judged(*files: SecretFile, exists: bool = True, writable: bool = True) -> CheckView:
        return judge_home("home", exists=exists, writable=writable, files=files)

    assert state(judged(closed, absent)) is CheckState.OK
    assert state(judged(exists=False, writable=False)) is CheckState.SKIPPED
    assert state(judged(closed, writable=False)) is CheckState.PROBLEM
    check = judged(closed, opened)
    assert state(check) is CheckState.PROBLEM
    assert check.remedy == "chmod 600 network.json"


@given(st.lists(st.integers(0, 1 << 50), min_size=1), st.integers(0, 1 << 45))
def test_the_fullest_place_decides(free: list[int], least: int) -> None:
    places = [Space(f"place {number}", size) for number, size in enumerate(free)]
    found = state(judge_disk([*places, Space("unknown", None)], free_bytes_min=least))
    if min(free) < least:
        assert found is CheckState.PROBLEM
    elif min(free) < least * SPACE_WARNING_FACTOR:
        assert found is CheckState.WARNING
    else:
        assert found is CheckState.OK


def test_space_that_cannot_be_told_is_skipped() -> None:
    assert state(judge_disk([Space("home", None)], free_bytes_min=1)) is CheckState.SKIPPED


def test_taken_port_is_a_problem_only_where_it_was_asked_for() -> None:
    free, taken = Attempt("UDP", PortState.FREE), Attempt("TCP", PortState.TAKEN)
    refused = Attempt("UDP", PortState.REFUSED, "not ours")
    assert state(judge_free_port(NODE, [free, free], was_asked=True)) is CheckState.OK
    assert state(judge_free_port(NODE, [free, taken], was_asked=False)) is CheckState.WARNING
    check = judge_free_port(NODE, [free, taken], was_asked=True)
    assert state(check) is CheckState.PROBLEM
    assert "TCP of" in check.seen
    assert state(judge_free_port(NODE, [refused, free], was_asked=False)) is CheckState.PROBLEM


@pytest.mark.parametrize("tls", list(Tls))
def test_own_port_must_answer_with_our_network(tls: Tls) -> None:
    wanted = CheckState.OK if tls is Tls.OURS else CheckState.PROBLEM
    assert state(judge_own_port("here", tls=tls)) is wanted


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        (ANSWERS, CheckState.OK, show_peer_id(PEER)),
        (replace(ANSWERS, wanted_id=PEER), CheckState.OK, "over UDP in 1.0 ms and TCP"),
        (NodeFound(NODE, NODE, is_own=True), CheckState.OK, "this peer itself"),
        (replace(ANSWERS, wanted_id=OTHER), CheckState.PROBLEM, "another than"),
        (replace(ANSWERS, tls=Tls.FOREIGN), CheckState.PROBLEM, "another network"),
        (NodeFound(NODE, NODE, tls=Tls.FOREIGN), CheckState.PROBLEM, "another network"),
        (replace(ANSWERS, udp_id=None), CheckState.PROBLEM, "not over UDP"),
        (replace(ANSWERS, tls=Tls.SILENT, tls_id=None), CheckState.WARNING, "not over TCP"),
        (replace(ANSWERS, tls_id=OTHER), CheckState.WARNING, "another peer over TCP"),
    ],
)
def test_node_is_judged_by_what_answers_whoever_else_does(
    found: NodeFound, wanted: CheckState, said: str
) -> None:
    for others_answer in (False, True):
        check = judge_node(found, others_answer=others_answer)
        assert state(check) is wanted
        assert said in check.seen
        assert check.check == f"bootstrap {NODE}"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (NodeFound(NODE, None), "cannot be looked up"),
        (NodeFound(NODE, NODE, tls=Tls.ABSENT), "nobody listens there"),
        (NodeFound(NODE, PUBLIC, tls=Tls.SILENT), f"no answer, UDP nor TCP at {PUBLIC}"),
    ],
)
def test_node_that_is_down_is_a_problem_only_when_it_is_missed(found: NodeFound, said: str) -> None:
    check = judge_node(found, others_answer=False)
    assert state(check) is CheckState.PROBLEM
    assert said in check.seen
    assert state(judge_node(found, others_answer=True)) is CheckState.WARNING


@given(st.lists(st.integers(-100 * HOUR_MS, 100 * HOUR_MS), max_size=9))
def test_clock_is_a_problem_only_where_three_peers_say_so(offsets_ms: list[int]) -> None:
    found = state(judge_clock(offsets_ms))
    middle = sorted(offsets_ms)[(len(offsets_ms) - 1) // 2] if offsets_ms else 0
    if not offsets_ms:
        assert found is CheckState.SKIPPED
    elif abs(middle) < CLOCK_WARNING_MS:
        assert found is CheckState.OK
    elif len(offsets_ms) >= 3 and abs(middle) >= OFFSET_MIN_MS:
        assert found is CheckState.PROBLEM
    else:
        assert found is CheckState.WARNING


def test_clock_tells_which_way_it_is_off() -> None:
    assert "7200 s behind 3 peers" in judge_clock([2 * HOUR_MS] * 3).seen
    assert "7200 s ahead of 1 peer" in judge_clock([-2 * HOUR_MS]).seen


def test_company() -> None:
    assert state(judge_contacts(1, 3)) is CheckState.OK
    assert state(judge_contacts(0, 3)) is CheckState.WARNING
    assert state(judge_contacts(0, 0)) is CheckState.WARNING


def test_reachability_is_what_others_found_and_where_they_see_us() -> None:
    assert state(judge_reachability("yes", NODE, None)) is CheckState.OK
    assert state(judge_reachability("no", NODE, None)) is CheckState.WARNING
    assert state(judge_reachability("unknown", NODE, None)) is CheckState.SKIPPED
    public = Address("8.8.8.8", 4100)
    check = judge_reachability("unknown", NODE, public)
    assert state(check) is CheckState.WARNING
    assert "--advertise 8.8.8.8" in check.remedy
    assert state(judge_reachability("yes", public, public)) is CheckState.OK
    loopback = Address("127.0.0.1", 4100)
    assert state(judge_reachability("yes", NODE, loopback)) is CheckState.OK


def test_lag_and_drops_are_told_from_a_threshold_on() -> None:
    assert state(judge_lag(LAG_WARNING_MS - 1)) is CheckState.OK
    assert state(judge_lag(LAG_WARNING_MS)) is CheckState.WARNING
    few, many = DROPS_WARNING_MIN - 1, DROPS_WARNING_MIN
    assert state(judge_drops({"sealed": few, "unasked": 1_000}, 9)) is CheckState.OK
    assert state(judge_drops({"sealed": few, "hello-signature": 1}, 9)) is CheckState.WARNING
    assert state(judge_drops({"store-full": many}, 9)) is CheckState.WARNING
    assert state(judge_drops({"ack-full": many}, 9)) is CheckState.WARNING
