"""A host: one process that serves one version of a model."""
