"""Stubs of `modelyard.registry.v1`."""
