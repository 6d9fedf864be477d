"""The gateway's contracts."""
