"""Stubs of `modelyard.gateway.v1`."""
