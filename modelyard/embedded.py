"""Models inside a Python program: the calls of `modelyard.Client`, without a server or a socket.

The gateway's stack and race run in the caller's own process, and so does onnxruntime, with the
settings, checks and errors that it has in a host. Needs `pip install 'modelyard[embedded]'`.

This is the one module of the SDK that imports rooms (docs/adr/0014), and only when it is imported
itself.
"""

try:
    from services.embedded.yard import AsyncYard, Yard
except ImportError as error:
    raise ImportError(
        f"modelyard.embedded needs {error.name}: pip install 'modelyard[embedded]'", name=error.name
    ) from error

__all__ = ["AsyncYard", "Yard"]
