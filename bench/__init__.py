"""Benchmarks beside other systems, in one run on one machine; they print ratios."""
