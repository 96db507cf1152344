"""Whom a server listens to, how it is found, and what a client is told that it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flows.operations.servers import ServerOptions, server_command, server_environment
from reward_data.errors import ConfigError
from tests.flows.operations.pool import Api, Place, free_port, place

PASSWORD = "admin:a-password-of-a-test"


# --- before it starts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_loopback_needs_no_password(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    environment = server_environment(ServerOptions(host=host))
    assert environment["PREFECT_SERVER_CSRF_PROTECTION_ENABLED"] == "true"
    assert environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == ServerOptions(host=host).address


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "some-host", ""])
def test_anything_else_is_refused_without_a_password(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    with pytest.raises(ConfigError, match="PREFECT_SERVER_API_AUTH_STRING=USER:PASSWORD"):
        server_environment(ServerOptions(host=host))
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", PASSWORD)
    server_environment(ServerOptions(host=host))


def test_no_secret_stands_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", PASSWORD)
    options = ServerOptions(database_url="postgresql+asyncpg://user:secret@host/name")
    assert "secret" not in " ".join(server_command(options))
    assert PASSWORD not in " ".join(server_command(options))
    url = server_environment(options)["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert url == "postgresql+asyncpg://user:secret@host/name"


def test_another_database_is_refused_without_repeating_its_password() -> None:
    with pytest.raises(ConfigError, match="begins with 'mysql'") as error:
        server_environment(ServerOptions(database_url="mysql://user:secret@host/name"))
    assert "secret" not in str(error.value)


def test_addresses() -> None:
    options = ServerOptions(host="0.0.0.0", port=4201, public_url="https://runs.example.org/")
    assert options.address == "https://runs.example.org"
    assert options.api == "http://127.0.0.1:4201/api"
    assert ServerOptions(host="::1").api == "http://[::1]:4200/api"


# --- in front of a real one ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """`rl4seg server` with a password."""
    with place(tmp_path_factory.mktemp("guarded")) as here:
        server = here.start("server", "--port", str(here.port), PREFECT_SERVER_API_AUTH_STRING=PASSWORD)
        server.wait_for("dashboard:")
        yield here
        assert server.stop() == 0


POOL_REQUEST = {"name": "other", "type": "process"}


@pytest.mark.flow
def test_a_request_needs_the_password_and_a_token(guarded: Place) -> None:
    url = f"http://127.0.0.1:{guarded.port}/api"
    user, password = PASSWORD.split(":")
    api = Api(url, PASSWORD)
    token = api.headers()
    for wrong in (None, (user, "wrong")):
        answer = httpx.post(f"{url}/work_pools/", json=POOL_REQUEST, headers=token, auth=wrong)
        assert answer.status_code == 401
        assert httpx.get(f"{url}/csrf-token", params={"client": "x"}, auth=wrong).status_code == 401
    without_token = httpx.post(f"{url}/work_pools/", json=POOL_REQUEST, auth=(user, password))
    assert without_token.status_code == 403
    assert "CSRF" in without_token.text
    assert api.post("work_pools/", POOL_REQUEST)["name"] == "other"


@pytest.mark.flow
def test_other_origins_are_not_allowed(guarded: Place) -> None:
    url = f"http://127.0.0.1:{guarded.port}/api/health"
    own, other = f"http://127.0.0.1:{guarded.port}", "http://elsewhere.example.org"
    answer = httpx.get(url, headers={"Origin": own})
    assert answer.headers["access-control-allow-origin"] == own
    assert "access-control-allow-origin" not in httpx.get(url, headers={"Origin": other}).headers


@pytest.mark.flow
def test_clients_find_it_and_say_what_they_lack(guarded: Place) -> None:
    assert "it wants a password; set PREFECT_API_AUTH_STRING" in guarded.call(
        "deploy", code=2, PREFECT_API_URL=f"http://127.0.0.1:{guarded.port}/api"
    )
    assert "the password that was given is wrong" in guarded.call(
        "deploy", code=2, PREFECT_API_URL=guarded.api.url, PREFECT_API_AUTH_STRING="admin:wrong"
    )
    said = guarded.call("deploy", PREFECT_API_AUTH_STRING=PASSWORD)  # found by its record in PREFECT_HOME
    assert "deployment auto-iteration/gpu" in said
    assert PASSWORD not in (guarded.folder / "prefect" / "rl4seg-server.json").read_text()


@pytest.mark.flow
def test_a_port_that_is_taken_is_named(guarded: Place) -> None:
    with place(guarded.folder / "second") as other:
        said = other.call("server", "--port", str(guarded.port), code=2)
    assert f"the Prefect server ended (port {guarded.port}); choose another port by --port" in said


@pytest.mark.skipif(sys.platform != "linux", reason="starts a process")
def test_where_no_server_is(tmp_path: Path) -> None:
    with place(tmp_path) as here:
        assert "start one by rl4seg up" in here.call("submit", "auto_iteration/demo", code=2)
        nowhere = f"http://127.0.0.1:{free_port()}/api"
        said = here.call("submit", "auto_iteration/demo", code=2, PREFECT_API_URL=nowhere)
        assert f"no Prefect server answers at {nowhere}" in said
        # one that was ours and was killed is not taken for alive
        record = here.folder / "prefect" / "rl4seg-server.json"
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps({"api": nowhere, "pid": 1}))
        assert "start one by rl4seg up" in here.call("submit", "auto_iteration/demo", code=2)
