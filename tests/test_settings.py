"""Settings are checked before anything starts: whatever is wrong is named, with what to do."""

import os

import pytest

from saga.errors import SettingsError
from saga.settings import Settings, file_of, redacted


def wide(digits: str) -> str:
    """The full-width forms, which Python takes for digits too."""
    return "".join(chr(ord(digit) - ord("0") + 0xFF10) for digit in digits)


ILLEGAL = [
    ("SAGA_APP", "domain", "module:name"),
    ("SAGA_APP", ":app", "module:name"),
    ("SAGA_APP", "domain:", "module:name"),
    ("SAGA_APP", "", "module:name"),
    ("SAGA_BUS", "redis://host", "local://… or kafka://…"),
    ("SAGA_BUS", "saga.db", "local://… or kafka://…"),
    ("SAGA_BUS", "", "local://… or kafka://…"),
    ("SAGA_BUS", "local://saga.db", "local:///PATH with three slashes"),
    ("SAGA_BUS", "local:///", "local:///PATH with three slashes"),
    ("SAGA_BUS", "kafka://", "kafka://HOST:PORT"),
    ("SAGA_BUS", "kafka://one", "kafka://HOST:PORT"),
    ("SAGA_BUS", "kafka://one:9092,", "kafka://HOST:PORT"),
    ("SAGA_BUS", "kafka://one:9092,two:x", "kafka://HOST:PORT"),
    ("SAGA_BUS", "kafka://me:secret@one:9092", "settings of their own"),
    ("SAGA_BUS", "sqlite:///saga.db", "local://… or kafka://…"),
    ("SAGA_STORE", "local:///saga.db", "sqlite://… or postgresql://…"),
    ("SAGA_STORE", "sqlite://saga.db", "sqlite:///PATH with three slashes"),
    ("SAGA_STORE", "mysql://host", "sqlite://… or postgresql://…"),
    ("SAGA_EFFECTS_STORE_PASSWORD", "", "at least 1"),
    ("SAGA_STORE_PASSWORD", "", "at least 1"),
    ("SAGA_EFFECTS_STORE", "effects.db", "sqlite://… or postgresql://…"),
    ("SAGA_EFFECTS_STORE", "", "sqlite://… or postgresql://…"),
    ("SAGA_OUTBOX", "sqlite:///shop.db", "postgresql://…"),
    ("SAGA_OUTBOX_PASSWORD", "", "at least 1"),
    ("SAGA_SIGNING_KEYS", "", "at least 1"),
    ("SAGA_ENV", "Dev", "small letters, digits and inner hyphens"),
    ("SAGA_ENV", "", "small letters, digits and inner hyphens"),
    ("SAGA_ENV", "a.b", "small letters, digits and inner hyphens"),
    ("SAGA_ENV", "x" * 33, "at most 32"),
    ("SAGA_NAMESPACE", "my shop", "small letters, digits and inner hyphens"),
    ("SAGA_NAMESPACE", "-shop", "small letters, digits and inner hyphens"),
    ("SAGA_LOG", "loud", "'debug', 'info', 'warning' or 'error'"),
    ("SAGA_LOG", "", "'debug', 'info', 'warning' or 'error'"),
    ("SAGA_HTTP", "here", "HOST:PORT"),
    ("SAGA_HTTP", "127.0.0.1", "HOST:PORT"),
    ("SAGA_HTTP", "127.0.0.1:http", "HOST:PORT"),
    ("SAGA_HTTP", "127.0.0.1:70000", "HOST:PORT"),
    ("SAGA_HTTP", ":8080", "HOST:PORT"),
    ("SAGA_GROUP", "", "at least 1 character"),
    ("SAGA_PARTITIONS", "0", "greater than or equal to 1"),
    ("SAGA_PARTITIONS", "1025", "less than or equal to 1024"),
    ("SAGA_PARTITIONS", "four", "valid integer"),
    ("SAGA_PARTITIONS", "", "valid integer"),
    ("SAGA_REPLICATION", "0", "greater than or equal to 1"),
    ("SAGA_REPLICATION", "", "valid integer"),
    ("SAGA_KAFKA_SECURITY_PROTOCOL", "TLS", "'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
    ("SAGA_KAFKA_SASL_MECHANISM", "GSSAPI", "'SCRAM-SHA-512' or 'OAUTHBEARER'"),
    ("SAGA_KAFKA_SASL_USERNAME", "", "at least 1 character"),
    ("SAGA_KAFKA_SASL_PASSWORD", "", "at least 1"),
    ("SAGA_KAFKA_SASL_OAUTH_TOKEN", "tokens", "module:callable"),
    ("SAGA_KAFKA_SSL_CA_FILE", "/no/such/ca.pem", "does not point to a file"),
    ("SAGA_KAFKA_SSL_CERT_FILE", "/no/such/cert.pem", "does not point to a file"),
    ("SAGA_KAFKA_SSL_KEY_FILE", "/no/such/key.pem", "does not point to a file"),
    ("SAGA_KAFKA_SSL_KEY_PASSWORD", "", "at least 1"),
    ("SAGA_KAFKA_SSL_CHECK_HOSTNAME", "perhaps", "valid boolean"),
    ("SAGA_KAFKA_INSTANCE_ID", "", "at least 1 character"),
    ("SAGA_KAFKA_SESSION_TIMEOUT", "soon", "text like '30s', '5m', '2h'"),
    ("SAGA_KAFKA_COMPRESSION", "rar", "'lz4' or 'zstd'"),
    ("SAGA_RETENTION", "7", "text like '30s', '5m', '2h'"),
    ("SAGA_RETENTION", "7 days", "text like '30s', '5m', '2h'"),
    ("SAGA_RETENTION", "200000d", "a century"),
    ("SAGA_RETENTION", "0s", "at least a second"),
    ("SAGA_RETENTION", "999ms", "at least a second"),
    ("SAGA_EARLY_HOLD", "soon", "text like '30s', '5m', '2h'"),
    ("SAGA_EARLY_HOLD", "-1s", "text like '30s', '5m', '2h'"),
    ("SAGA_LIVE_SAGAS", "0", "greater than or equal to 1"),
    ("SAGA_LIVE_SAGAS", "many", "valid integer"),
    ("SAGA_RECORD_BYTES", "1023", "greater than or equal to 1024"),
    ("SAGA_RECORD_BYTES", "100000000", "less than or equal to"),
    ("SAGA_RECORD_BYTES", "1MB", "valid integer"),
    # What cannot be meant, though Python or the driver would make something of it.
    ("SAGA_BUS", "kafka://one:0", "kafka://HOST:PORT"),
    ("SAGA_BUS", f"kafka://one:{wide('9092')}", "kafka://HOST:PORT"),
    ("SAGA_BUS", "kafka://one:9092/path", "kafka://HOST:PORT"),
    ("SAGA_BUS", "kafka://one:9092?security=none", "kafka://HOST:PORT"),
    ("SAGA_BUS", "kafka://one: 9092", "blank"),
    ("SAGA_BUS", "kafka://one:9092\n", "line's end"),
    ("SAGA_BUS", "kafka://one:90\n92", "line's end"),
    ("SAGA_BUS", " kafka://one:9092", "blanks around"),
    ("SAGA_BUS", "kafka://öne:9092", "kafka://HOST:PORT"),
    ("SAGA_BUS", "kafka:one:9092", "local://… or kafka://…"),
    ("SAGA_BUS", "local:///:memory:", "name a file"),
    ("SAGA_BUS", "local:///~/saga.db", "the whole path"),
    ("SAGA_BUS", "local:///data/", "names a folder"),
    ("SAGA_STORE", "sqlite:///:memory:", "name a file"),
    ("SAGA_STORE", "sqlite:////tmp/:memory:", "name a file"),
    ("SAGA_STORE", "sqlite:///file:x?mode=memory", "name a file"),
    ("SAGA_STORE", "sqlite:///~/saga.db", "the whole path"),
    ("SAGA_STORE", "sqlite:///~me/saga.db", "the whole path"),
    ("SAGA_STORE", "sqlite:///saga.db\n", "line's end"),
    ("SAGA_STORE", "sqlite:///saga.db ", "blanks around"),
    ("SAGA_STORE", "sqlite:///sa\x00ga.db", "control character"),
    ("SAGA_STORE", "sqlite:///\udcff.db", "control character"),
    ("SAGA_STORE", "postgresql://u@host:0/db", "a port is a number from 1 to 65535"),
    ("SAGA_STORE", "postgresql://u@host:70000/db", "a port is a number from 1 to 65535"),
    ("SAGA_STORE", f"postgresql://u@host:{wide('5432')}/db", "a port is a number from 1 to 65535"),
    ("SAGA_STORE", "postgresql://u@a:5432,b:0/db", "a port is a number from 1 to 65535"),
    ("SAGA_STORE", "postgresql://u@host/db?port=0", "a port is a number from 1 to 65535"),
    ("SAGA_STORE", "postgresql://u@host/db name", "blank"),
    ("SAGA_EFFECTS_STORE", "sqlite:///:memory:", "name a file"),
    ("SAGA_OUTBOX", "postgresql://u@host:0/db", "a port is a number from 1 to 65535"),
    ("SAGA_HTTP", "http://127.0.0.1:8080", "HOST:PORT"),
    ("SAGA_HTTP", f"127.0.0.1:{wide('8080')}", "HOST:PORT"),
    ("SAGA_HTTP", "127.0.0.1:8080/health", "HOST:PORT"),
    ("SAGA_HTTP", "127.0.0.1: 8080", "HOST:PORT"),
    ("SAGA_HTTP", "Off ", "blanks around"),
    ("SAGA_APP", "my app:app", "module:name"),
    ("SAGA_APP", "domain:app:x", "module:name"),
    ("SAGA_APP", "domain/app.py", "module:name"),
    ("SAGA_APP", "domain/app.py:", "module:name"),
    ("SAGA_APP", "domain/app.py:a b", "shop/app.py:app"),
    ("SAGA_GROUP", "my workers", "letters, digits"),
    ("SAGA_GROUP", " workers", "blanks around"),
    ("SAGA_KAFKA_INSTANCE_ID", "worker 1", "letters, digits"),
    ("SAGA_KAFKA_INSTANCE_ID", "..", "letters, digits"),
    ("SAGA_PARTITIONS", "10.0", "valid integer"),
    ("SAGA_PARTITIONS", " 10", "valid integer"),
    ("SAGA_PARTITIONS", "1_0", "valid integer"),
    ("SAGA_PARTITIONS", wide("10"), "valid integer"),
    ("SAGA_PARTITIONS", "9" * 5_000, "valid integer"),
    ("SAGA_LIVE_SAGAS", "1e3", "valid integer"),
    ("SAGA_RETENTION", f"{wide('7')}d", "text like '30s'"),
    ("SAGA_RETENTION", " 7d", "blanks around"),
    ("SAGA_EARLY_HOLD", "10s\n", "line's end"),
    ("SAGA_KAFKA_SESSION_TIMEOUT", "5s", "6s to 30m"),
    ("SAGA_KAFKA_SESSION_TIMEOUT", "0s", "6s to 30m"),
    ("SAGA_KAFKA_SESSION_TIMEOUT", "31m", "6s to 30m"),
    ("SAGA_KAFKA_SASL_USERNAME", "me\n", "line's end"),
    ("SAGA_STORE_PASSWORD", "a\nb", "line's end"),
    # A password that is not escaped: the driver would take parts of it for host or port.
    ("SAGA_STORE", "postgresql://u:pa/ss@host/db", "%2F"),
    ("SAGA_STORE", "postgresql://u:pa#ss@host/db", "%23"),
    ("SAGA_STORE", "postgresql://u:pa?ss@host/db", "%3F"),
    ("SAGA_STORE", "postgresql://u:pa@ss@host/db", "%40"),
    ("SAGA_EFFECTS_STORE", "postgresql://u:pa/ss@host/db", "%2F"),
    ("SAGA_OUTBOX", "postgresql://u:pa/ss@host/db", "%2F"),
]


@pytest.mark.parametrize(("variable", "value", "says"), ILLEGAL)
def test_an_illegal_value_is_named_with_what_is_expected(variable, value, says):
    """The variable, the value, and what would be right."""
    with pytest.raises(SettingsError) as caught:
        Settings.read({variable: value})

    assert caught.value.setting == variable
    shown = "***" if value and variable.endswith("PASSWORD") else redacted(value)[:100]
    assert str(caught.value).startswith(f"{variable}: {shown!r}")
    assert says in caught.value.problem


def test_every_setting_can_be_illegal():
    checked = {variable for variable, _, _ in ILLEGAL}

    assert checked == {f"SAGA_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize(
    ("variable", "says"),
    [
        ("SAGA_STOER", "did you mean SAGA_STORE?"),
        ("SAGA_PARTITION", "did you mean SAGA_PARTITIONS?"),
        ("SAGA_ZZZ", "known are SAGA_APP, SAGA_BUS"),
        ("SAGA_store", "SAGA_STORE"),
        ("saga_store", "did you mean SAGA_STORE?"),
        ("Saga_Log", "did you mean SAGA_LOG?"),
        ("saga_stoer", "did you mean SAGA_STORE?"),
        ("SAGA_", "known are"),
    ],
)
def test_an_unknown_variable_is_refused_by_name(variable, says):
    """A misspelt setting would otherwise do nothing."""
    with pytest.raises(SettingsError) as caught:
        Settings.read({variable: "x"})

    assert caught.value.setting == variable
    assert says in caught.value.problem


def test_other_variables_are_not_looked_at():
    assert Settings.read({"SAGAS": "x", "PATH": "y", "MY_SAGA_X": "z"}) == Settings.read({})


def test_an_unknown_argument_is_refused_by_name():
    """`app.service(stoer=…)` is as wrong as the variable."""
    with pytest.raises(SettingsError, match="SAGA_STOER"):
        Settings.read({}, stoer="sqlite:///x.db")


def test_defaults_are_those_of_the_documentation():
    settings = Settings.read({})

    assert (settings.app, settings.env, settings.namespace) == ("domain:app", "dev", "saga")
    assert (settings.bus, settings.store) == ("local:///.saga/saga.db", "sqlite:///.saga/saga.db")
    assert settings.effects_address == "sqlite:///.saga/saga-effects.db"
    assert (settings.partitions, settings.retention_s, settings.early_hold_s) == (4, 604_800, 10.0)
    assert settings.topic_names.topic("a.evt.b.v1") == "dev.saga.a.evt.b.v1"


def test_arguments_go_before_the_environment(monkeypatch):
    monkeypatch.setenv("SAGA_ENV", "prod")
    monkeypatch.setenv("SAGA_PARTITIONS", "8")
    settings = Settings.read(env="test", namespace=None)

    assert (settings.env, settings.partitions, settings.namespace) == ("test", 8, "saga")


def test_a_given_environment_is_read_in_place_of_that_of_the_process(monkeypatch):
    monkeypatch.setenv("SAGA_ENV", "prod")

    assert Settings.read({}).env == "dev"


@pytest.mark.parametrize(
    ("store", "effects"),
    [
        ("sqlite:///orders.db", "sqlite:///orders-effects.db"),
        ("sqlite:///data/orders", "sqlite:///data/orders-effects.db"),
        ("sqlite:////var/lib/orders.db", "sqlite:////var/lib/orders-effects.db"),
        ("sqlite:///my #1 files/a?b.db", "sqlite:///my #1 files/a?b-effects.db"),
        ("postgresql://user@host/orders", "postgresql://user@host/orders"),
    ],
)
def test_effects_are_kept_beside_the_store(store, effects):
    assert Settings.read({}, store=store).effects_address == effects


def test_the_effects_store_may_be_somewhere_else():
    settings = Settings.read({"SAGA_EFFECTS_STORE": "sqlite:////elsewhere/e.db"})

    assert settings.effects_address == "sqlite:////elsewhere/e.db"


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("sqlite:///saga.db", "saga.db"),
        ("local:///.saga/saga.db", ".saga/saga.db"),
        ("sqlite:////tmp/saga.db", "/tmp/saga.db"),
        ("sqlite:///a b/ö.db", "a b/ö.db"),
        ("sqlite:///a#b/c?d=1.db", "a#b/c?d=1.db"),
        ("sqlite:///100%25.db", "100%25.db"),
    ],
)
def test_a_path_is_what_stands_behind_three_slashes(address, path):
    Settings.read({}, store=address.replace("local", "sqlite"))

    assert file_of(address) == path


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Settings.read({}).env = "x"


def test_a_secret_may_be_the_content_of_a_file(tmp_path):
    (tmp_path / "password").write_text("s3cret \n")
    settings = Settings.read({"SAGA_STORE_PASSWORD_FILE": str(tmp_path / "password")})

    assert settings.store_password is not None
    assert settings.store_password.get_secret_value() == "s3cret "


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"SAGA_STORE_PASSWORD_FILE": "/no/such/file"}, "No such file"),
        ({"SAGA_STORE_PASSWORD_FILE": "/x", "SAGA_STORE_PASSWORD": "y"}, "given as well"),
        ({"SAGA_STORE_FILE": "/x"}, "there is no such setting"),
        ({"SAGA_STORE_PASSWORD_FILE": "/dev/null"}, "no file but a pipe or device"),
        ({"SAGA_STORE_PASSWORD_FILE": "."}, "directory"),
        ({"SAGA_KAFKA_SSL_KEY_FILE": "/dev/null"}, "does not point to a file"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused_by_name(variables, says):
    with pytest.raises(SettingsError, match=says) as caught:
        Settings.read(variables)

    assert caught.value.setting == next(iter(variables))


def test_a_pipe_is_refused_as_a_secret_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(SettingsError, match="no file but a pipe or device"):
        Settings.read({"SAGA_STORE_PASSWORD_FILE": str(tmp_path / "pipe")})


@pytest.mark.parametrize("content", ["two\nlines", "nul\x00", "x" * 70_000, "\n"])
def test_a_file_with_more_than_a_secret_is_refused_and_not_shown(tmp_path, content):
    (tmp_path / "password").write_text(content)

    with pytest.raises(SettingsError) as caught:
        Settings.read({"SAGA_STORE_PASSWORD_FILE": str(tmp_path / "password")})
    assert content not in str(caught.value)


@pytest.mark.parametrize(("mode", "is_doubtful"), [(0o600, False), (0o640, False), (0o644, True)])
@pytest.mark.parametrize("setting", ["SAGA_STORE_PASSWORD_FILE", "SAGA_KAFKA_SSL_KEY_FILE"])
def test_a_secret_that_everybody_may_read_is_doubtful(tmp_path, mode, is_doubtful, setting):
    file = tmp_path / "my secret"
    file.write_text("s3cret")
    file.chmod(mode)
    doubts = Settings.read({setting: str(file)}).doubts()

    assert [f"chmod 600 '{file}'" in doubt for doubt in doubts] == [True] * is_doubtful


SASL = {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_sasl_username": "u"}


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (SASL | {"bus": "kafka://away:9092"}, "away"),
        (SASL | {"bus": "kafka://localhost:1,away:2"}, "away"),
        (SASL | {"bus": "kafka://127.0.0.1:1,[::1]:2"}, None),
        (SASL | {"bus": "kafka://away:1", "kafka_security_protocol": "SASL_SSL"}, None),
        (SASL | {"bus": "kafka://away:1", "kafka_sasl_mechanism": "SCRAM-SHA-512"}, None),
        ({"store": "postgresql://u:p@away/db"}, "away"),
        ({"store": "postgresql://u@away:5432/db", "store_password": "p"}, "away"),
        ({"store": "postgresql://u@away/db"}, None),
        ({"store": "postgresql://u:p@away/db?sslmode=prefer"}, "away"),
        ({"store": "postgresql://u:p@away/db?sslmode=verify-full"}, None),
        ({"store": "postgresql://u:p@localhost/db"}, None),
        ({"store": "postgresql:///db?user=u&password=p&host=away"}, "away"),
        ({"store": "postgresql:///db?user=u&password=p&host=/run/postgresql"}, None),
        ({"effects_store": "postgresql://u:p@away/db"}, "away"),
        ({"outbox": "postgresql://u@away/db", "outbox_password": "p"}, "away"),
    ],
)
def test_a_password_in_the_clear_to_another_host_is_doubtful(monkeypatch, settings, where):
    monkeypatch.delenv("PGSSLMODE", raising=False)
    doubts = Settings.read({}, **settings).doubts()

    assert [f"in the clear to {where}: " in doubt for doubt in doubts] == [True] * bool(where)


def test_secrets_are_not_shown():
    secrets = dict.fromkeys(Settings.secrets(), "s3cret")
    secrets["signing_keys"] = "k1 s3crets3crets3crets3cret"  # base64, too

    assert "s3cret" not in repr(Settings.read({}, **secrets))
    assert "s3cret" not in str(Settings.read({}, **secrets).model_dump())
    for name in secrets:
        with pytest.raises(SettingsError) as caught:
            Settings.read({}, **{name: ["s3cret"]})
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://saga:s3cret@db/saga",
        "postgresql://saga:s3c@s3cret@db/saga?sslmode=require",
        "postgresql://saga@db/saga?password=s3cret&sslmode=require",
        "postgresql://saga@db/saga?sslpassword=s3cret",
        "mysql://saga:s3cret@db/saga",
        "postgresql://saga:s3c/ret@db/saga",
        "postgresql://saga:s3c#ret@db/saga",
        "postgresql://saga:s3c?ret@db/saga",
        "postgresql://saga:s3c@ret/x@db/saga",
        "postgresql://sa/ga:s3cret@db/saga",
        "postgresql://saga:s3c\nret@db/saga",
        "postgresql://saga:%733cret@db/saga",
        "postgresql://saga@db/saga?pass%77ord=s3cret",
        "postgresql://saga@db/saga?%70assword=s3cret",
        "postgresql://saga@db/saga?password%3Ds3cret",
        "postgresql://saga@db/saga?sslmode=require&sslpassword=s3cret&x=1",
        "postgresql://saga@db/saga?sslmode=require;PASSWORD=s3cret",
        "kafka://saga:s3cret@db/saga",
        "kafka://saga@db/saga?sasl_password=s3cret",
    ],
)
def test_passwords_in_addresses_are_not_shown(address):
    assert "s3c" not in redacted(address)
    assert "saga" in redacted(address)
    try:
        shown = repr(Settings.read({"SAGA_STORE": address}))
    except SettingsError as error:
        shown = str(error)
    assert "s3c" not in shown
    assert "3cret" not in shown
    assert "@db/saga" in shown


def test_addresses_without_passwords_are_shown_as_they_are():
    for address in (
        *("kafka://a:9092,b:9092", "sqlite:///a:b@c.db", "postgresql://u@h:5432/d", "x"),
        "postgresql://u@h/d?sslmode=require&application_name=x",
    ):
        assert redacted(address) == address
