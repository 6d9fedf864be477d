"""Stubs of `modelyard.archive.v1`."""
