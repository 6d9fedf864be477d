"""Writes the event log as Parquet: once, redacted, for as long as is wanted."""
