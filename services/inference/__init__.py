"""Supervises hosts; a host serves one version."""
