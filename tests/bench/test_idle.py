import os

from bench import idle


def test_figures_are_those_between_the_two_samples() -> None:
    before = idle.Sample(cpu_s=10.0, rss_mb=60.0, rss_peak_mb=65.0, datagrams=100, contacts=98)
    after = idle.Sample(cpu_s=10.3, rss_mb=61.0, rss_peak_mb=66.0, datagrams=106, contacts=99)
    shown = idle.show(before, after, seconds=60.0).splitlines()
    assert shown[-4:] == [
        "contacts: 99",
        "memory: 61.0 MB resident, 66.0 MB at most",
        "processor: 0.50% of a core over 60 s",
        "datagrams sent: 0.10/s",
    ]


def test_a_process_shows_what_it_uses() -> None:
    cpu_s, rss_mb, peak_mb = idle._usage(os.getpid())
    assert 0 < cpu_s <= sum(os.times()[:2]) + 0.1
    assert 1 < rss_mb <= peak_mb + 0.1
