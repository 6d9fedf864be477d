"""Tells, without the network, whether requirements.lock still answers pyproject.toml.

Every requirement of the project, of its extras and of its dependency groups must be pinned in
the lock, at a version that it allows, with hashes. `make lock` resolves anew.
"""

import re
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")


def requirements(project: dict[str, object]) -> Iterator[Requirement]:
    """Every requirement that pyproject names, our own extras left out."""
    match project:
        case {
            "project": {"name": str(own), "dependencies": base, "optional-dependencies": extras},
            "dependency-groups": groups,
        }:
            assert isinstance(base, list)
            assert isinstance(extras, dict)
            assert isinstance(groups, dict)
            for text in chain(base, *extras.values(), *groups.values()):
                requirement = Requirement(text)
                if requirement.name != own:
                    yield requirement


def pins(lock: str) -> dict[str, list[Version]]:
    """The locked versions by canonical name; environment markers may give several."""
    found: dict[str, list[Version]] = {}
    for line in lock.splitlines():
        if pin := _PIN.match(line):
            found.setdefault(canonicalize_name(pin[1]), []).append(Version(pin[2]))
    return found


def faults(project: dict[str, object], lock: str) -> list[str]:
    """What the lock lacks, in words."""
    pinned = pins(lock)
    found = []
    for requirement in requirements(project):
        versions = pinned.get(canonicalize_name(requirement.name), [])
        if not versions:
            found.append(f"{requirement} is not locked")
        found += [
            f"{requirement} does not allow the locked {version}"
            for version in versions
            if not requirement.specifier.contains(version, prereleases=True)
        ]
    if lock.count("==") and "--hash=sha256:" not in lock:
        found.append("the lock carries no hashes")
    return found


def main() -> None:
    """Ends with the faults, if there are any."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = faults(project, (ROOT / "requirements.lock").read_text())
    if found:
        raise SystemExit("requirements.lock is stale, run `make lock`:\n  " + "\n  ".join(found))


if __name__ == "__main__":
    main()
