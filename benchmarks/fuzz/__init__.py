"""Mutated frames against both ends of the local lane (`python -m benchmarks.fuzz`)."""
