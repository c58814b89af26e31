"""What `doctor` says of the broker; pure.

Owns the words and remedies. Must not know how it was asked.
"""

from __future__ import annotations

from peer.checkup import ok, problem, skipped, warning
from peer.units import show_size
from peer.views import CheckView, utc_text
from queueing.rabbitmq_health import QueueHealth


def judge_queue(host: str | None, health: QueueHealth | None) -> CheckView:
    """Say whether the broker can be used, and whether it brought what is no mail."""
    if host is None or health is None:
        return skipped("queue", "no broker is named", "--queue or `[queue] amqp` names one")
    if health.failure is not None:
        return problem("queue", f"{host}: {health.failure}", health.failure.hint)
    if health.wanted_bytes:
        seen = f"{host}: mail waits there, and there is no room for it here"
        remedy = f"free {show_size(health.wanted_bytes)} or more; then it comes by itself"
        return problem("queue", seen, remedy)
    if health.dead is None:
        dead = (
            "no dead letter (`shoal bootstrap --setup-queue` makes one): what is no mail is dropped"
        )
    else:
        dead = f"{health.dead} in the dead letter {health.dead_letter}"
    if not health.poison:
        return ok("queue", f"{host} answers; {dead}")
    kinds = ", ".join(f"{count} {what}" for what, count, _ in health.poison)
    last = utc_text(max(at_ms for _, _, at_ms in health.poison))
    seen = f"{host}: messages that are no mail were rejected ({kinds}, last {last}); {dead}"
    return warning("queue", seen, "somebody with an account there sends them: tell its operator")
