"""Fixtures that every test may use; what they are made of lies in tests/support."""

import os

import pytest
from hypothesis import settings

from tests.support.broker import broker, broker_control, managed_broker

__all__ = ["broker", "broker_control", "managed_broker"]

# The machines that run this are small and shared: no deadline, and few examples by default.
settings.register_profile("default", deadline=None, max_examples=60)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("SHOAL_HYPOTHESIS", "default"))

BROKER_FIXTURES = {"broker", "broker_control", "managed_broker"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs RabbitMQ, so that `-m "not broker"` runs the rest quickly."""
    for item in items:
        if BROKER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.broker)
