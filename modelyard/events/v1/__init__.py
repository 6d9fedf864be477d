"""Stubs of `modelyard.events.v1`."""
