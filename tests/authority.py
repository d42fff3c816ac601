"""An authority that signs certificates for tests, by the `openssl` program."""

import shutil
import subprocess
from pathlib import Path

import pytest

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")


class Authority:
    """A certificate authority in a folder of its own. *certificate* is what others trust."""

    def __init__(self, folder: Path, name: str = "tests") -> None:
        if shutil.which("openssl") is None:
            pytest.fail("openssl is missing. Debian and Ubuntu: apt install openssl", pytrace=False)
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        self.folder = folder
        self.certificate = folder / "authority.pem"
        self._key = folder / "authority.key"
        subject = ("-subj", f"/CN={name}", "-days", "2", "-nodes", "-keyout", self._key)
        openssl("req", "-x509", *CURVE, *subject, "-out", self.certificate)

    def issue(
        self, name: str, *hosts: str, is_expired: bool = False, password: str | None = None
    ) -> Path:
        """A file with a key and its certificate, for these hosts; the key has a *password* if
        given.
        """
        request, key = self.folder / f"{name}.csr", self.folder / f"{name}.key"
        guard = ("-nodes",) if password is None else ("-passout", f"pass:{password}")
        openssl(
            "req", "-new", *CURVE, "-subj", f"/CN={name}", *guard, "-keyout", key, "-out", request
        )
        extensions = self.folder / f"{name}.ext"
        kinds = ",".join(f"{'IP' if host[0].isdigit() else 'DNS'}:{host}" for host in hosts)
        extensions.write_text(f"subjectAltName={kinds}\n" if hosts else "")
        certificate = self.folder / f"{name}.crt"
        by = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial")
        days = "-1" if is_expired else "2"
        signed = ("-extfile", extensions, "-days", days, "-out", certificate)
        openssl("x509", "-req", "-in", request, *by, *signed)
        found = self.folder / f"{name}.pem"
        found.write_text(key.read_text() + certificate.read_text())
        return found


def openssl(*words: str | Path) -> None:
    """Runs `openssl words…`."""
    result = subprocess.run(["openssl", *words], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
