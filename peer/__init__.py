"""The running peer: the only package that wires the others together."""
