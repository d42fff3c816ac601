"""TLS and SASL on a real broker: who is let in, and which error the others get."""

import asyncio
import base64
import gc
import json
import os
import subprocess
import sys
import time
from asyncio.selector_events import _SelectorTransport
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra import InfraError, Kafka, Listener
from infra.scratch import scratch_folder
from saga.adapters.kafka import KafkaBus, open_bus
from saga.adapters.kafka.connection import KafkaConnection
from saga.adapters.kafka.diagnosis import diagnosis
from saga.console.cli.output import ExitCode
from saga.errors import BusUnavailable, SettingsError
from saga.ports.bus import Record, TopicSpec
from saga.settings import Settings
from tests.authority import Authority
from tests.patience import HANG_S

USER, PASSWORD = "alice", "s3cret-of-alice"
WRONG = "wr0ng-of-alice"
KEY_PASSWORD = "s3cret-of-the-key"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
LOGIN = "org.apache.kafka.common.security"
ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.connected


@dataclass(frozen=True)
class Secured:
    """A broker with encrypted listeners, and the authority that it believes."""

    kafka: Kafka
    authority: Authority

    def variables(self, listener: str = "SECURE", **more: str) -> dict[str, str]:
        """The environment of a process that is let in by SASL over TLS; *more* goes before it."""
        variables = {
            "SAGA_BUS": f"kafka://{self.kafka.bootstrap_of(listener)}",
            "SAGA_KAFKA_SSL_CA_FILE": str(self.authority.certificate),
            "SAGA_KAFKA_SECURITY_PROTOCOL": "SSL",
        }
        if listener == "SECURE":
            variables |= {
                "SAGA_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "SAGA_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
                "SAGA_KAFKA_SASL_USERNAME": USER,
                "SAGA_KAFKA_SASL_PASSWORD": PASSWORD,
            }
        return {**variables, **more}


@pytest.fixture(scope="module")
def secured() -> Iterator[Secured]:
    """A broker with four listeners.

    One takes every mechanism of SASL over TLS, one asks for certificates, and the certificates of
    two are not to be believed.
    """
    with scratch_folder() as folder:
        authority = Authority(folder / "authority")
        ours = authority.issue("broker", "127.0.0.1")
        old = authority.issue("old", "127.0.0.1", is_expired=True)
        far = authority.issue("far", "kafka.test")
        kafka = Kafka(
            folder / "kafka",
            users={USER: PASSWORD},
            listeners=[
                _listener("SECURE", ours, authority, **_sasl()),
                _listener("MUTUAL", ours, authority, **{"ssl.client.auth": "required"}),
                _listener("EXPIRED", old, authority),
                _listener("ELSEWHERE", far, authority),
            ],
        )
        try:
            kafka.start()
        except InfraError as error:
            pytest.fail(str(error), pytrace=False)
        yield Secured(kafka, authority)
        kafka.kill()


def _listener(name: str, pem: Path, authority: Authority, **more: str) -> Listener:
    certified = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(pem),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.certificate),
    }
    protocol = "SASL_SSL" if "sasl.enabled.mechanisms" in more else "SSL"
    return Listener(name=name, protocol=protocol, properties={**certified, **more})


def _sasl() -> dict[str, str]:
    plain = f'{LOGIN}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    scram = f"{LOGIN}.scram.ScramLoginModule required;"
    bearer = f"{LOGIN}.oauthbearer.OAuthBearerLoginModule required;"
    return {
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "plain.sasl.jaas.config": plain,
        "scram-sha-256.sasl.jaas.config": scram,
        "scram-sha-512.sasl.jaas.config": scram,
        "oauthbearer.sasl.jaas.config": bearer,
    }


def token() -> str:
    """A token that is not signed, as brokers take it for tests."""
    now = int(time.time())
    parts = {"alg": "none"}, {"sub": USER, "iat": now, "exp": now + 600}
    head, claims = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts
    )
    return f"{head}.{claims}."


async def token_later() -> str:
    """The same, from a service that takes its time."""
    await asyncio.sleep(0.01)
    return token()


def stale_token() -> str:
    """A token that brokers refuse."""
    return "s3cret-but-no-token"


def no_token() -> str:
    """A hook that fails, and quotes a secret."""
    raise ConnectionError(f"https://client:{PASSWORD}@tokens.test")


async def exchange(variables: dict[str, str], name: str) -> None:
    bus = open_bus(Settings.read(variables))
    try:
        await bus.create_topics([TopicSpec(name, 1)])
        await bus.publish([Record(name, b"k", b"v")])
        member = await bus.subscribe(f"{name}.g", [name])
        records = []
        async with asyncio.timeout(HANG_S):
            while not records:
                records = await member.fetch(records_max=10, timeout_s=1)
        assert [record.value for record in records] == [b"v"]
    finally:
        await bus.close()


async def refusal(variables: dict[str, str]) -> str:
    """The error of a client that is not let in: it is told so, without a secret."""
    bus = open_bus(Settings.read(variables))
    try:
        async with asyncio.timeout(HANG_S):
            with pytest.raises(BusUnavailable) as caught:
                await bus.create_topics([TopicSpec("t", 1)])
    finally:
        await bus.close()
    shown = f"{caught.value}{caught.value!r}"
    assert not [secret for secret in (PASSWORD, WRONG, KEY_PASSWORD, "s3cret") if secret in shown]
    return str(caught.value)


@pytest.mark.parametrize("mechanism", MECHANISMS[:3])
async def test_a_password_lets_us_in(secured: Secured, namespace: str, mechanism: str) -> None:
    """By each of Kafka's ways, over TLS: topics are made, records go in and come out."""
    await exchange(secured.variables(SAGA_KAFKA_SASL_MECHANISM=mechanism), namespace)


@pytest.mark.parametrize("hook", [token, token_later])
async def test_a_token_lets_us_in(secured: Secured, namespace: str, hook) -> None:
    """From a function of the user's, `async` or not."""
    variables = bearing(secured, hook)

    await exchange(variables, namespace)


def bearing(secured: Secured, hook) -> dict[str, str]:
    """The environment of a process that shows tokens."""
    variables = secured.variables(
        SAGA_KAFKA_SASL_MECHANISM="OAUTHBEARER",
        SAGA_KAFKA_SASL_OAUTH_TOKEN=f"{__name__}:{hook.__name__}",
    )
    del variables["SAGA_KAFKA_SASL_USERNAME"], variables["SAGA_KAFKA_SASL_PASSWORD"]
    return variables


@pytest.mark.parametrize("password", [None, KEY_PASSWORD])
async def test_a_certificate_lets_us_in(
    secured: Secured, namespace: str, password: str | None
) -> None:
    """Where brokers ask for one; its key may have a password."""
    certificate = secured.authority.issue(namespace, password=password)
    variables = secured.variables("MUTUAL", SAGA_KAFKA_SSL_CERT_FILE=str(certificate))
    if password is not None:
        variables["SAGA_KAFKA_SSL_KEY_PASSWORD"] = password

    await exchange(variables, namespace)


async def test_the_name_in_a_certificate_is_not_checked_if_told_so(
    secured: Secured, namespace: str
) -> None:
    """A certificate for another host is believed only then."""
    variables = secured.variables("ELSEWHERE", SAGA_KAFKA_SSL_CHECK_HOSTNAME="false")

    await exchange(variables, namespace)


@pytest.mark.parametrize("mechanism", MECHANISMS[:3])
async def test_a_wrong_password_is_reported_as_such(secured: Secured, mechanism: str) -> None:
    """With the user, the setting and the server."""
    error = await refusal(
        secured.variables(SAGA_KAFKA_SASL_MECHANISM=mechanism, SAGA_KAFKA_SASL_PASSWORD=WRONG)
    )

    assert "SAGA_KAFKA_SASL_PASSWORD" in error
    assert f"{USER!r}" in error
    assert secured.kafka.bootstrap_of("SECURE") in error


@pytest.mark.parametrize("hook", [stale_token, no_token])
async def test_a_token_that_is_no_good_is_traced_to_its_hook(secured: Secured, hook) -> None:
    """Whether it is refused or missing."""
    error = await refusal(bearing(secured, hook))

    assert "SAGA_KAFKA_SASL_OAUTH_TOKEN" in error
    assert hook.__name__ in error


@pytest.mark.parametrize("wrong", ["password", "token"])
async def test_a_diagnosis_leaves_no_connection_open(secured: Secured, wrong: str) -> None:
    """Not even while an encrypted one ends: the program may end before."""
    variables = secured.variables(SAGA_KAFKA_SASL_MECHANISM="PLAIN", SAGA_KAFKA_SASL_PASSWORD=WRONG)
    if wrong == "token":
        variables = bearing(secured, stale_token)

    assert await diagnosis(KafkaConnection.of(Settings.read(variables)))

    transports = [thing for thing in gc.get_objects() if isinstance(thing, _SelectorTransport)]
    assert [left for left in transports if left._sock is not None] == []  # noqa: SLF001


async def test_brokers_with_wrong_certificates_are_not_believed(
    secured: Secured, tmp_path: Path
) -> None:
    """Signed by somebody else, or by nobody that this machine knows; expired; of another host."""
    other = Authority(tmp_path / "other").certificate
    by_other = await refusal(secured.variables(SAGA_KAFKA_SSL_CA_FILE=str(other)))
    variables = secured.variables()
    del variables["SAGA_KAFKA_SSL_CA_FILE"]
    by_nobody = await refusal(variables)
    expired = await refusal(secured.variables("EXPIRED"))
    elsewhere = await refusal(secured.variables("ELSEWHERE"))

    assert f"SAGA_KAFKA_SSL_CA_FILE ({other})" in by_other
    assert "SAGA_KAFKA_SSL_CA_FILE (the system's authorities)" in by_nobody
    assert "certificate has expired" in expired
    assert "SAGA_KAFKA_SSL_CHECK_HOSTNAME" in elsewhere


async def test_a_certificate_that_is_missing_or_expired_is_named(secured: Secured) -> None:
    """Where brokers ask for one."""
    old = secured.authority.issue("old-client", is_expired=True)
    missing = await refusal(secured.variables("MUTUAL"))
    expired = await refusal(secured.variables("MUTUAL", SAGA_KAFKA_SSL_CERT_FILE=str(old)))

    assert "SAGA_KAFKA_SSL_CERT_FILE" in missing
    assert f"SAGA_KAFKA_SSL_CERT_FILE ({old})" in expired


async def test_a_protocol_that_does_not_fit_the_port_is_named(secured: Secured) -> None:
    """In both directions; so is a port without a server."""
    plain = await refusal({"SAGA_BUS": f"kafka://{secured.kafka.bootstrap_of('SECURE')}"})
    encrypted = await refusal(secured.variables("PLAINTEXT"))
    nowhere = await refusal({"SAGA_BUS": "kafka://127.0.0.1:9"})

    assert "SAGA_KAFKA_SECURITY_PROTOCOL is PLAINTEXT" in plain
    assert "SAGA_KAFKA_SECURITY_PROTOCOL" in encrypted
    assert "SAGA_BUS" in nowhere


async def test_a_service_runs_over_sasl_and_tls(
    secured: Secured, namespace: str, tmp_path: Path
) -> None:
    """`saga publish` and `saga run` as they are installed, with the password in a file."""
    variables = serving(secured, namespace, tmp_path, PASSWORD)
    placed = json.dumps({"order_id": "o-1"})

    published = saga(variables, "publish", "shop.evt.order-placed.v1", placed)
    served = saga(variables, "run", "--until-idle", "--json")

    assert published.returncode == 0, published.stderr
    assert served.returncode == 0, served.stderr
    assert json.loads(served.stdout)["completed"] == 1


async def test_a_service_with_a_wrong_password_ends_in_seconds(
    secured: Secured, namespace: str, tmp_path: Path
) -> None:
    """Kafka counts as unreachable, and the setting is named."""
    refused = saga(serving(secured, namespace, tmp_path, WRONG), "run", "--until-idle")

    assert refused.returncode == ExitCode.UNREACHABLE
    assert "SAGA_KAFKA_SASL_PASSWORD" in refused.stderr


def serving(secured: Secured, namespace: str, folder: Path, password: str) -> dict[str, str]:
    """The environment of a whole service whose password is in a file."""
    program = "from tests.scenarios import order_app\napp = order_app.app()\n"
    (folder / "orders_app.py").write_text(program)
    secret = folder / "password"
    secret.write_text(f"{password}\n")
    variables = secured.variables(
        SAGA_APP="orders_app:app",
        SAGA_NAMESPACE=namespace,
        SAGA_STORE=f"sqlite:///{folder}/saga.db",
        SAGA_KAFKA_SASL_PASSWORD_FILE=str(secret),
        SAGA_LOG="debug",
        PYTHONPATH=f"{ROOT}{os.pathsep}{folder}",
    )
    del variables["SAGA_KAFKA_SASL_PASSWORD"]
    return variables


def saga(variables: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """`saga words…` in a process of its own; says no secret."""
    result = subprocess.run(
        [sys.executable, "-m", "saga", *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_S,
    )
    output = result.stdout + result.stderr
    assert not [secret for secret in (PASSWORD, WRONG) if secret in output], output
    return result


def test_settings_without_a_use_are_refused() -> None:
    """Credentials without SASL, certificates without TLS: a mistake that would go unnoticed."""
    for given, protocol in (
        ({"SAGA_KAFKA_SASL_USERNAME": USER}, "SSL"),
        ({"SAGA_KAFKA_SSL_CHECK_HOSTNAME": "false"}, "SASL_PLAINTEXT"),
    ):
        variables = {"SAGA_BUS": "kafka://k:1", "SAGA_KAFKA_SECURITY_PROTOCOL": protocol, **given}
        with pytest.raises(SettingsError, match="has no use while") as caught:
            open_bus(Settings.read(variables))
        assert caught.value.setting in given


def test_files_that_are_no_good_are_named(tmp_path: Path) -> None:
    """No certificate in it, a key that fits another one, a password that is missing or wrong."""
    authority = Authority(tmp_path / "authority")
    guarded = authority.issue("guarded", password=KEY_PASSWORD)
    other = authority.issue("other")
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    for wrong, setting, path in (
        ({"CA": junk}, "SAGA_KAFKA_SSL_CA_FILE", junk),
        ({"CERT": junk}, "SAGA_KAFKA_SSL_CERT_FILE", junk),
        ({"CERT": guarded, "KEY": other}, "SAGA_KAFKA_SSL_CERT_FILE", other),
        ({"CERT": guarded}, "SAGA_KAFKA_SSL_KEY_PASSWORD", guarded),
        ({"CERT": guarded, "PASSWORD": WRONG}, "SAGA_KAFKA_SSL_KEY_PASSWORD", guarded),
    ):
        given = {f"SAGA_KAFKA_SSL_{name}_FILE": str(file) for name, file in wrong.items()}
        password = given.pop("SAGA_KAFKA_SSL_PASSWORD_FILE", None)
        if password is not None:
            given["SAGA_KAFKA_SSL_KEY_PASSWORD"] = password
        variables = {"SAGA_BUS": "kafka://k:1", "SAGA_KAFKA_SECURITY_PROTOCOL": "SSL", **given}
        with pytest.raises(SettingsError) as caught:
            open_bus(Settings.read(variables))
        assert caught.value.setting == setting
        assert str(path) in str(caught.value)
        assert WRONG not in f"{caught.value}{caught.value!r}"


async def test_no_repr_shows_a_secret(secured: Secured) -> None:
    """Settings, bus, connection and security, whoever prints them."""
    settings = Settings.read(secured.variables())
    bus = open_bus(settings)
    connection = bus._connection  # noqa: SLF001 - what a debugger would show

    for thing in (settings, bus, connection, connection.settings, settings.model_dump()):
        assert PASSWORD not in f"{thing!r}{thing}"
    assert isinstance(bus, KafkaBus)
    await bus.close()
