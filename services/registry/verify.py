"""Runs the probe on an artifact and reads what it found."""

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelyard.catalog import Provenance, Signature, Tensor
from modelyard.errors import Internal, InvalidArtifact
from services.registry.artifacts import ArtifactStore

# A model that takes longer to load would not serve within any host's patience either. Seconds.
TIMEOUT = 300.0


class Verifier:
    """Tries artifacts, one process each.

    Args:
        store: Where the files are.
        work: A folder for their layout, on the store's file system where that is local.
        timeout: Of one try, in seconds.
        at_a_time: Tries side by side; each loads a model.
    """

    def __init__(
        self, store: ArtifactStore, work: Path, timeout: float = TIMEOUT, at_a_time: int = 2
    ) -> None:
        self._store = store
        self._work = work
        self._timeout = timeout
        self._free = asyncio.Semaphore(at_a_time)
        work.mkdir(parents=True, exist_ok=True)

    async def examine(self, files: Sequence[tuple[str, str]]) -> tuple[Signature, Provenance]:
        """Checks and loads the files, given as (path, digest), the model's first.

        Raises:
            InvalidArtifact: They are no model that this yard can serve; the text says why.
            BlobNotFound: A file was not uploaded.
        """
        _check_model_file([path for path, _ in files])
        async with self._free:
            with tempfile.TemporaryDirectory(dir=self._work) as folder:
                root = Path(folder)
                await asyncio.to_thread(self._store.lay_out, root, list(files))
                return _described(await self._probe(root / files[0][0]))

    async def _probe(self, model: Path) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "services.registry.probe", str(model)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(self._timeout):
                output, _ = await process.communicate()
        except TimeoutError:
            raise InvalidArtifact(f"the model did not load within {self._timeout:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode is not None and process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            raise InvalidArtifact(f"the model kills the process that loads it ({name})")
        try:
            found: dict[str, Any] = json.loads(output)
        except ValueError:
            raise Internal(f"the probe ended with {process.returncode}") from None
        return found


def _check_model_file(paths: Sequence[str]) -> None:
    """A host must find the same model file that was tried."""
    models = [path for path in paths if "/" not in path and path.endswith(".onnx")]
    if len(paths) > 1 and (
        paths[0] not in models or (len(models) > 1 and paths[0] != "model.onnx")
    ):
        raise InvalidArtifact(
            "of several files the first is the model: the only *.onnx, or model.onnx"
        )


def _described(found: dict[str, Any]) -> tuple[Signature, Provenance]:
    if "error" in found:
        raise InvalidArtifact(found["error"])

    def tensors(role: str) -> tuple[Tensor, ...]:
        return tuple(
            Tensor(t["name"], t["datatype"], tuple(t["shape"]), t["optional"]) for t in found[role]
        )

    said = Provenance(found["producer"], found["ir_version"], found["opsets"], found["tested_with"])
    return Signature(tensors("inputs"), tensors("outputs")), said
