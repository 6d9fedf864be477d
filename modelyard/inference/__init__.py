"""The public inference protocol."""
