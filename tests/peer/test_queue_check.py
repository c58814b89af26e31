from peer.queue_check import judge_queue
from peer.views import CheckState
from queueing.errors import Unavailable
from queueing.rabbitmq_health import QueueHealth

HOST = "127.0.0.1:5672"
WELL = QueueHealth(None, (), "shoal.aa.dead", 0, 0)


def test_peer_without_a_broker_has_nothing_to_examine() -> None:
    assert judge_queue(None, None).state == CheckState.SKIPPED


def test_broker_that_answers_is_well_with_or_without_a_dead_letter() -> None:
    assert judge_queue(HOST, WELL).state == CheckState.OK
    bare = judge_queue(HOST, QueueHealth(None, (), "shoal.aa.dead", None, 0))
    assert bare.state == CheckState.OK
    assert "--setup-queue" in bare.seen


def test_broker_that_does_not_answer_is_a_problem_with_its_own_remedy() -> None:
    down = QueueHealth(Unavailable("it is down"), (), "shoal.aa.dead", None, 0)
    check = judge_queue(HOST, down)
    assert (check.state, "it is down" in check.seen) == (CheckState.PROBLEM, True)
    assert check.remedy == Unavailable.hint


def test_poison_is_told_by_kind_count_and_time() -> None:
    poison = (("chunk", 2, 1_000), ("malformed", 1, 86_400_000))
    check = judge_queue(HOST, QueueHealth(None, poison, "shoal.aa.dead", 3, 0))
    assert check.state == CheckState.WARNING
    for part in ("2 chunk", "1 malformed", "1970-01-02T00:00:00Z", "3 in the dead letter"):
        assert part in check.seen


def test_queue_that_waits_for_room_is_a_problem_that_says_how_much() -> None:
    check = judge_queue(HOST, QueueHealth(None, (), "shoal.aa.dead", 0, 5_000_000))
    assert (check.state, "5.0 MB" in check.remedy) == (CheckState.PROBLEM, True)
