"""The archive: what was asked and answered, as Parquet, in a folder or an object store."""
