"""The Python SDK: one client, sync and async, for calls and for the registry."""

from modelyard.client.aio import AsyncClient
from modelyard.client.connection import Tls
from modelyard.client.inference import Inference
from modelyard.client.steps import Progress
from modelyard.client.sync import Client

__all__ = ["AsyncClient", "Client", "Inference", "Progress", "Tls"]
