"""The systems that are measured, each behind the same few calls. Owns their list."""

from bench.systems.base import System

NAMES = ("shoal", "kademlia", "opendht", "shoal-private")
"""In the order in which they are measured and shown."""


def system_of(name: str) -> System:
    """Return a system by its name; it is imported here, so that the others need not be installed.

    Raises KeyError for an unknown name, ImportError where the system is not installed.
    """
    match name:
        case "shoal" | "shoal-private":
            from bench.systems.shoal import ShoalSystem

            return ShoalSystem(is_private=name == "shoal-private")
        case "kademlia":
            from bench.systems.stock import StockSystem

            return StockSystem()
        case "opendht":
            from bench.systems.open_dht import OpenDhtSystem

            return OpenDhtSystem()
        case _:
            raise KeyError(name)
