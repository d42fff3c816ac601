"""Where the programs are, and how missing ones are installed.

Only root on Debian or a relative of it installs; anybody else is told the command. Two processes
that miss the same package install it once.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from infra.failures import NotInstalled, end_of
from infra.locks import exclusive
from infra.processes import run

INSTALL_TIMEOUT_S = 600
_POSTGRES_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
_FAKETIME_FOLDERS = ("/usr/lib/*/faketime", "/usr/lib/faketime", "/usr/lib64/faketime")
FETCH_TIMEOUT_S = 600.0
_POM = Path(__file__).with_name("kafka-pom.xml")
_APT = ["apt-get", "-o", "DPkg::Lock::Timeout=300"]


def cache_folder() -> Path:
    """Where downloads stay between runs and checkouts: `saga-infra` in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "saga-infra"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def java() -> Path:
    """The Java runtime, 17 or newer."""
    return _program("java", package="default-jre-headless", what="Java 17 or newer")


def kafka_jars() -> Path:
    """All jars of a broker, fetched by Maven once; the folder appears complete or not at all.

    Raises:
        NotInstalled: Maven is missing.
        NotStarted: Maven could not fetch them.
    """
    digest = hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]
    folder = cache_folder() / f"kafka-{digest}"
    if not folder.exists():
        with exclusive(cache_folder() / "kafka.lock"):
            if not folder.exists():
                _fetch(folder)
    return folder


def postgres_folder() -> Path:
    """The folder of the newest PostgreSQL server's programs."""
    folder = _postgres_folder()
    if folder is None:
        with exclusive(cache_folder() / "install.lock"):
            folder = _postgres_folder()
            if folder is None:
                _install("postgresql", what="The PostgreSQL server")
                folder = _postgres_folder()
    if folder is None:
        raise NotInstalled("The PostgreSQL server", "Its package has no `postgres` on PATH.")
    return folder


def pgbouncer() -> Path:
    """The pooler PgBouncer."""
    return _program("pgbouncer", package="pgbouncer", what="PgBouncer")


def faketime_library() -> Path:
    """What shows a process another time, where it is preloaded."""
    found = _faketime_library()
    if found is None:
        with exclusive(cache_folder() / "install.lock"):
            found = _faketime_library()
            if found is None:
                _install("libfaketime", what="libfaketime")
                found = _faketime_library()
    if found is None:
        raise NotInstalled("libfaketime", "Its package has no libfaketime.so.1.")
    return found


def _faketime_library() -> Path | None:
    folders = [folder for pattern in _FAKETIME_FOLDERS for folder in Path("/").glob(pattern[1:])]
    return next((folder / "libfaketime.so.1" for folder in folders), None)


def _program(name: str, *, package: str, what: str) -> Path:
    found = _found(name)
    if found is None:
        with exclusive(cache_folder() / "install.lock"):
            found = _found(name)
            if found is None:
                _install(package, what=what)
                found = _found(name)
    if found is None:
        raise NotInstalled(what, f"Its package {package} has no `{name}` on PATH.")
    return Path(found)


def _found(name: str) -> str | None:
    # Debian puts servers where only root looks.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def _postgres_folder() -> Path | None:
    folders = [folder for pattern in _POSTGRES_FOLDERS for folder in Path("/").glob(pattern[1:])]
    folders = [folder for folder in folders if (folder / "postgres").exists()]
    if folders:
        return max(folders, key=_version)
    found = shutil.which("postgres")
    return None if found is None else Path(found).resolve().parent


def _version(folder: Path) -> float:
    digits = folder.parent.name.removeprefix("pgsql-")
    return float(digits) if digits.replace(".", "", 1).isdecimal() else 0.0


def _install(package: str, *, what: str) -> None:
    if shutil.which("apt-get") is None:
        raise NotInstalled(what, "Install it with this system's package manager, on PATH.")
    remedy = f"Install it: apt-get install {package}"
    if os.geteuid() != 0:
        raise NotInstalled(what, f"{remedy} (as root)")
    print(f"Installing the Debian package {package} ...", file=sys.stderr, flush=True)  # noqa: T201 - it takes a while
    log = cache_folder() / "install.log"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        [*_APT, "update", "-q"],
        [*_APT, "install", "-y", "-q", "--no-install-recommends", package],
    ):
        with log.open("ab") as output:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=INSTALL_TIMEOUT_S,
                check=False,
            )
        # A repository that cannot be refreshed may still have what is asked for.
        if done.returncode != 0 and "install" in command:
            raise NotInstalled(what, f"{remedy} (failed just now; {log} ends with)\n{end_of(log)}")


def _fetch(folder: Path) -> None:
    program = _program("mvn", package="maven", what="Maven")
    log = cache_folder() / "kafka-fetch.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as scratch:
        pom = Path(shutil.copy(_POM, scratch))
        jars = Path(scratch) / "jars"
        command: list[str | Path] = [program, "--batch-mode", "--no-transfer-progress"]
        command += ["--file", pom, "dependency:copy-dependencies", "-DincludeScope=runtime"]
        command += [f"-DoutputDirectory={jars}"]
        run("Maven", command, log=log, timeout_s=FETCH_TIMEOUT_S)
        jars.rename(folder)
