"""Stubs of `modelyard.shadow.v1`."""
