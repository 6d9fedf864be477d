"""The event log: written by the gateway's tap, read by evaluations, the archive and monitoring."""
