"""Makes .venv and installs the locked dependencies and this project into it.

Run by make with the machine's own Python, so it uses the standard library alone, and words that
an older Python can read.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
NEEDED = (3, 11)


def run(*command: str) -> None:
    """Runs a command; ends with its exit status when it fails."""
    status = subprocess.run(command, cwd=str(ROOT)).returncode  # the status is what we read
    if status != 0:
        sys.exit(status)


def make() -> None:
    """Makes the environment, also where the system's Python comes without ensurepip (Debian)."""
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        run(sys.executable, "-m", "venv", str(VENV))
    elif importlib.util.find_spec("venv") and importlib.util.find_spec("pip"):
        run(sys.executable, "-m", "venv", "--without-pip", str(VENV))
        run(sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", "pip")
    else:
        sys.exit(sys.executable + " has no venv or no pip; on Debian: apt install python3-venv")


def main() -> None:
    """Makes what is missing; what is there already is brought up to the lock."""
    if sys.version_info < NEEDED:
        sys.exit(
            "Modelyard needs Python {}.{} or later; {} is {}.{}."
            " Name another: make PYTHON=/path/to/python3.11".format(
                *NEEDED, sys.executable, *sys.version_info[:2]
            )
        )
    if not PYTHON.exists():
        make()
    print("installing the locked dependencies into .venv", flush=True)
    pip = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--require-hashes", "-r", "requirements.lock")
    run(*pip, "--no-deps", "--no-build-isolation", "--editable", ".")


if __name__ == "__main__":
    main()
