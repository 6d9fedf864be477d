"""Puts the packages of tests/clients/node at .tools/node, as its lock has them.

Exits with 0 and says so where there is no npm; with 1 where npm cannot give them.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "tests" / "clients" / "node"
HOME = ROOT / ".tools" / "node"


def main() -> int:
    """Fetches them."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        print("no client of Node.js: there is no npm here")
        return 0
    HOME.mkdir(parents=True, exist_ok=True)
    fresh = True
    for name in ("package.json", "package-lock.json", "client.js"):
        source, target = SOURCE / name, HOME / name
        fresh = fresh and target.exists() and target.read_bytes() == source.read_bytes()
        shutil.copyfile(source, target)
    if fresh and (HOME / "node_modules").exists():
        return 0
    flags = ("--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error")
    done = subprocess.run([npm, "ci", *flags], cwd=HOME, capture_output=True, text=True)
    if done.returncode != 0:
        print("no client of Node.js:", (done.stderr or done.stdout).strip().splitlines()[-1:])
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
