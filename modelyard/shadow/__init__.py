"""Shadow evaluation's contracts."""
