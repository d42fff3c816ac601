"""Free TCP ports on the loopback interface.

They are below the range from which the kernel takes the near ends of outgoing connections: inside
it a client that keeps trying to reach a killed server may be given the server's own port, and talk
to itself. Servers draw again when they find their port taken (`START_ATTEMPTS_MAX`).
"""

import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
START_ATTEMPTS_MAX = 4
_LOWEST_PORT = 15_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_PORT_DEFAULT = 32_768
_DRAWS_MAX = 200


def free_port(*, preferred: int | None = None) -> int:
    """A port that nobody listens on now: *preferred* if it is free, else one drawn by chance."""
    if preferred is not None and is_free(preferred):
        return preferred
    for _ in range(_DRAWS_MAX):
        port = random.randrange(_LOWEST_PORT, _ephemeral_port_min())  # noqa: S311 - not a secret
        if is_free(port):
            return port
    raise OSError(f"no free port was found on {HOST} in {_DRAWS_MAX} draws")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port in TIME_WAIT is theirs to have.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _ephemeral_port_min() -> int:
    try:
        lowest = int(_EPHEMERAL_RANGE.read_text("ascii").split()[0])
    except OSError:
        return _EPHEMERAL_PORT_DEFAULT
    return lowest if lowest > _LOWEST_PORT + _DRAWS_MAX else _EPHEMERAL_PORT_DEFAULT
