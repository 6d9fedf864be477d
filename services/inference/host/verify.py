"""The digest of an artifact on disk, and the check against the one that was registered.

A single file has the sha256 of its bytes. A folder has the sha256 of its manifest: a line
`<sha256>  <path>` for each file, sorted by path; a folder of one file has that file's.
"""

import hashlib
from pathlib import Path

from modelyard.errors import InvalidArtifact

_PREFIX = "sha256:"


def digest(artifact: Path) -> str:
    """`sha256:` and 64 hex digits; raises InvalidArtifact when there is nothing to read."""
    try:
        if artifact.is_file():
            return _PREFIX + _of_file(artifact)
        files = sorted(
            (p.relative_to(artifact).as_posix(), p) for p in artifact.rglob("*") if p.is_file()
        )
        if not files:
            raise InvalidArtifact(f"the artifact {artifact.name!r} is not there, or is empty")
        sums = [(_of_file(file), path) for path, file in files]
    except OSError as error:
        raise InvalidArtifact(f"the artifact cannot be read: {error.strerror}") from error
    if len(sums) == 1:
        return _PREFIX + sums[0][0]
    manifest = "".join(f"{hexdigest}  {path}\n" for hexdigest, path in sums)
    return _PREFIX + hashlib.sha256(manifest.encode()).hexdigest()


def verify(artifact: Path, expected: str) -> None:
    """Raises InvalidArtifact unless the artifact has the digest `expected`."""
    found = digest(artifact)
    want = expected if expected.startswith(_PREFIX) else _PREFIX + expected
    if found != want:
        raise InvalidArtifact(
            f"the artifact is not the one that was registered: its digest is {found}, not {want}"
        )


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
