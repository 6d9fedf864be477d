"""The registry's contracts."""
