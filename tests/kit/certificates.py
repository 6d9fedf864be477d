"""Certificates that a test signs itself, with openssl."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Authority:
    """Signs certificates for 127.0.0.1, in a folder of its own."""

    folder: Path
    signed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.cert, self._key = self.folder / "ca.pem", self.folder / "ca.key"
        self._openssl("req", "-x509", "-new", *self._keys(self._key), "-out", self.cert)

    def sign(self) -> tuple[Path, Path]:
        """A new certificate and its key."""
        self.signed += 1
        cert, key = (self.folder / f"{self.signed}.{end}" for end in ("pem", "key"))
        asked, names = self.folder / "asked", self.folder / "names"
        names.write_text("subjectAltName=IP:127.0.0.1")
        self._openssl("req", "-new", *self._keys(key), "-out", asked)
        self._openssl(
            *("x509", "-req", "-in", asked, "-out", cert, "-days", "2", "-extfile", names),
            *("-CA", self.cert, "-CAkey", self._key, "-CAcreateserial"),
        )
        return cert, key

    def _keys(self, key: Path) -> tuple[str | Path, ...]:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        return (*curve, "-nodes", "-subj", f"/CN={self.folder.name}", "-keyout", key)

    def _openssl(self, *argv: str | Path) -> None:
        subprocess.run(["openssl", *map(str, argv)], check=True, capture_output=True, timeout=60)
