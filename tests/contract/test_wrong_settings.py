"""Every room ends with 2 and one line, where a setting names what is not there."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOMS = {
    "gateway": ["--registry=unix:{0}/none"],
    # Nothing listens there: what is wrong is told before the registry waits for its Redis.
    "services.registry": ["--redis=unix://{0}/none", "--artifacts={0}/artifacts"],
    "services.inference": [
        *("--registry=unix:{0}/none", "--artifacts={0}/artifacts"),
        *("--data-dir={0}/data", "--run-dir={1}"),
    ],
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_tls_file_that_is_missing_is_named(room: str, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="my-") as run:  # sockets need a short path
        _check(room, tmp_path, run)


def _check(room: str, tmp_path: Path, run: str) -> None:
    missing = tmp_path / "cert.pem"
    key = tmp_path / "key.pem"
    key.touch()
    ended = subprocess.run(
        [
            *(sys.executable, "-m", room, "--listen=127.0.0.1:0", "--metrics-listen="),
            *(f"--tls-cert={missing}", f"--tls-key={key}"),
            *(argument.format(tmp_path, run) for argument in ROOMS[room]),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert str(missing) in line
