"""Lanes carry attempts to hosts."""
