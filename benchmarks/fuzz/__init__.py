"""What no honest peer sends, at the local lane (`python -m benchmarks.fuzz`) and the fronts."""
