"""One Kafka broker: its folder, its settings, its process."""

import signal
from collections.abc import Mapping
from pathlib import Path

from infra.ports import HOST
from infra.processes import ServerProcess, wait_until_ready

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
_LOGGING = Path(__file__).with_name("kafka-log4j2.yaml")
_READY = b"Kafka Server started"
# Short-lived, small and many: no time for the optimising compiler, one thread for the collector.
_SMALL_JVM = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_FAST_JVM = ("-Xms512m", "-Xmx1g")


class Broker:
    """A broker of a `Kafka`, which starts it first; then it can be stopped and started alone."""

    def __init__(self, number: int, folder: Path, *, is_bound: bool, is_fast: bool = False) -> None:
        self.number = number
        self.folder = folder
        self.log = folder / "broker.log"
        self.properties_path = folder / "server.properties"
        self.ports: dict[str, int] = {}
        self._is_bound = is_bound
        self._jvm = _FAST_JVM if is_fast else _SMALL_JVM
        self._process: ServerProcess | None = None
        self._command: list[str | Path] = []
        self._log_start = 0

    @property
    def process(self) -> ServerProcess:
        """Its process, running or not; there is one from the first start on."""
        assert self._process is not None, f"broker {self.number} was never started"
        return self._process

    @property
    def is_running(self) -> bool:
        """Whether its process runs, serving or not."""
        return self._process is not None and self._process.is_running()

    @property
    def is_formatted(self) -> bool:
        """Whether its storage has been prepared."""
        return (self.folder / "data" / "meta.properties").exists()

    def address(self, listener: str = "PLAINTEXT") -> str:
        """`host:port` of one of its listeners."""
        assert self.ports, "a broker has an address once it was started"
        return f"{HOST}:{self.ports[listener]}"

    def start(self) -> None:
        """Starts it again where it was, and waits until it serves.

        Raises:
            NotStarted: it ended or hung; the error quotes its log.
        """
        if not self.is_running:
            self._spawn()
        self.wait_until_ready()

    def stop(self) -> None:
        """Stops it as an operator would, and kills it when that takes half a minute."""
        self.ask_to_stop()
        if self._process is not None and not self._process.has_ended(timeout_s=STOP_TIMEOUT_S):
            self._process.kill()

    def kill(self) -> None:
        """Kills it with SIGKILL; does nothing when it does not run."""
        if self._process is not None:
            self._process.kill()

    def restart(self) -> None:
        """Stops it and starts it again."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stops its clock with SIGSTOP: connections stay open and nothing answers."""
        self.process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on after `freeze`."""
        self.process.signal(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        """Begins a stop without waiting for it."""
        if self._process is not None:
            self._process.signal(signal.SIGTERM)

    def write_properties(self, shared: Mapping[str, str]) -> None:
        """Writes its settings file: the cluster's settings and its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        listeners = [f"{name}://{self.address(name)}" for name in self.ports]
        advertised = [line for line in listeners if not line.startswith("CONTROLLER:")]
        properties = {
            **shared,
            "node.id": str(self.number),
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(advertised),
            "log.dirs": str(self.folder / "data"),
        }
        lines = [f"{name}={_escaped(value)}\n" for name, value in sorted(properties.items())]
        self.properties_path.write_text("".join(lines), "utf-8")

    def command(self, java: Path, jars: Path, program: str) -> list[str | Path]:
        """The command line of one of Kafka's programs."""
        logging = f"-Dlog4j2.configurationFile={_LOGGING}"
        return [java, *self._jvm, "-cp", f"{jars}/*", logging, program]

    def spawn(self, java: Path, jars: Path) -> None:
        """Starts its process without waiting for it."""
        self._command = [*self.command(java, jars, "kafka.Kafka"), self.properties_path]
        self._spawn()

    def wait_until_ready(self) -> None:
        """Waits until it serves.

        Raises:
            NotStarted: it ended or hung.
        """
        wait_until_ready(
            self.process,
            self._is_ready,
            name=f"Kafka broker {self.number}",
            log=self.log,
            timeout_s=START_TIMEOUT_S,
        )

    def _spawn(self) -> None:
        assert self._command, f"broker {self.number} is started by its cluster first"
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process = ServerProcess.spawn(
            self._command, folder=self.folder, log=self.log, is_bound=self._is_bound
        )

    def _is_ready(self) -> bool:
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return _READY in file.read()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")
