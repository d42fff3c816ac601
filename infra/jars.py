"""The jars of Apache Kafka, fetched by Maven once and kept outside the checkout.

What `kafka-pom.xml` says names the folder, so that another version is another folder. The folder
appears complete or not at all; whoever comes while it is being fetched waits.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from infra.locks import exclusive
from infra.processes import run
from infra.programs import cache_folder, maven

FETCH_TIMEOUT_S = 600.0
_POM = Path(__file__).with_name("kafka-pom.xml")


def kafka_jars() -> Path:
    """The folder with all jars of a broker.

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


def _fetch(folder: Path) -> None:
    program = maven()
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
