"""Puts a perf_analyzer that runs at .tools/perf_analyzer/perf_analyzer.

The program comes from a tritonclient wheel and links two libraries that a machine may lack:
libcudart.so.12 (from a wheel; no GPU is needed) and libb64.so.0d (Debian's package libb64-0d).
Exits with 1 and the reason where it cannot be had.
"""

import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".tools" / "perf_analyzer"
PROGRAM = HOME / "perf_analyzer"
WHEELS = ROOT / "tools" / "perf_analyzer.txt"
WRAPPER = """#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$here/perf_analyzer.bin" "$@"
"""


class CannotBeHad(Exception):
    """Why this machine has no perf_analyzer."""


def run(*command: str, cwd: Path | None = None) -> str:
    """Runs a command and gives what it printed; raises CannotBeHad when it fails."""
    try:
        # The status is read below.
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotBeHad(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise CannotBeHad(f"{' '.join(command[:4])}: {lines[-1] if lines else done.returncode}")
    return done.stdout


def from_wheels(into: Path, scratch: Path) -> None:
    """Takes the program and libcudart out of the pinned wheels."""
    run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"),
        *("--require-hashes", "-r", str(WHEELS), "-d", str(scratch)),
    )
    wanted = {"perf_analyzer": into / "perf_analyzer.bin"}
    wanted["libcudart.so.12"] = into / "lib" / "libcudart.so.12"
    for wheel in scratch.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if target := wanted.get(Path(name).name):
                    target.write_bytes(archive.read(name))
    (into / "perf_analyzer.bin").chmod(0o755)


def libb64(into: Path, scratch: Path) -> None:
    """Takes libb64 from Debian's archive where the loader does not know it."""
    if "libb64.so.0d => not found" not in run("ldd", str(into / "perf_analyzer.bin")):
        return
    if not shutil.which("apt-get"):
        raise CannotBeHad("libb64.so.0d is missing; install your system's libb64")
    try:
        run("apt-get", "download", "-q", "libb64-0d", cwd=scratch)
    except CannotBeHad:
        if os.geteuid() != 0:
            raise
        run("apt-get", "update", "-q")
        run("apt-get", "download", "-q", "libb64-0d", cwd=scratch)
    run("dpkg-deb", "-x", str(next(scratch.glob("libb64-0d*.deb"))), str(scratch / "b64"))
    for library in (scratch / "b64").rglob("libb64.so.0d*"):
        shutil.copy(library, into / "lib" / "libb64.so.0d")


def install() -> None:
    """Makes the folder whole, then moves it into place; raises CannotBeHad."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise CannotBeHad(f"it exists for Linux on x86-64, and this is {platform.platform()}")
    HOME.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME.parent) as folder:
        scratch, made = Path(folder), Path(folder) / "made"
        (made / "lib").mkdir(parents=True)
        from_wheels(made, scratch)
        libb64(made, scratch)
        wrapper = made / "perf_analyzer"
        wrapper.write_text(WRAPPER)
        wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        run(str(wrapper), "--version")
        shutil.rmtree(HOME, ignore_errors=True)
        made.rename(HOME)


def main() -> None:
    """Installs it unless it is there."""
    if PROGRAM.exists():
        return
    try:
        install()
    except CannotBeHad as reason:
        raise SystemExit(f"perf_analyzer cannot be had: {reason}") from None


if __name__ == "__main__":
    main()
