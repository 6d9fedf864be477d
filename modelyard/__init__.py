"""Modelyard: model-as-a-service over gRPC."""

__version__ = "0.1.0"
