"""Tails: real hosts that straggle, and who is how far from it."""
