"""The Prefect server: how it is started, how it is found, and whom it may listen to.

An open Prefect API can run commands on its process workers. So a server listens to loopback alone unless a password is
set, answers no other site's pages (CSRF tokens on, CORS limited to the dashboard's own address), and secrets are read
from the environment, never from a command line or a run's parameters.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import Field

import flows.prefect_settings  # noqa: F401  (sets the environment before Prefect is imported)
from reward_data.errors import ConfigError
from reward_data.types import Config

RECORD, LOG = "rl4seg-server.json", "rl4seg-server.log"
PUBLIC_URL = "RL4SEG_PUBLIC_URL"
SERVER_AUTH, CLIENT_AUTH = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
ANSWER_SECONDS = (
    75.0  # SQLite may keep a busy server waiting for a minute; where none is, the answer comes at once
)


class ServerOptions(Config):
    """Where a server listens and where it keeps its records."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=4200, ge=1, le=65535, description="Port to listen on.")
    database_url: str | None = Field(
        default=None, description="SQLAlchemy URL, postgresql+asyncpg://...; null = SQLite in PREFECT_HOME."
    )
    public_url: str | None = Field(
        default=None, description="Address in the browser's address bar; null = http://HOST:PORT."
    )

    @property
    def address(self) -> str:
        """The dashboard's address as browsers know it."""
        return (self.public_url or f"http://{_in_url(self.host)}:{self.port}").rstrip("/")

    @property
    def api(self) -> str:
        """The API's address on this machine."""
        host = "127.0.0.1" if _any_address(self.host) else self.host
        return f"http://{_in_url(host)}:{self.port}/api"


def server_command(options: ServerOptions) -> list[str]:
    """The command that serves in the foreground."""
    place = ["--host", options.host, "--port", str(options.port)]
    return [sys.executable, "-P", "-m", "prefect", "server", "start", *place, "--log-level", "WARNING"]


def server_environment(options: ServerOptions) -> dict[str, str]:
    """The environment of that command.

    Raises:
        ConfigError: it would listen to the network without a password, or the database's URL is no PostgreSQL's.
    """
    _check_host(options)
    added = {
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": options.address,
        "PREFECT_SERVER_UI_API_URL": f"{options.address}/api",
    }
    if options.database_url is not None:
        if not options.database_url.startswith("postgresql+asyncpg://"):
            scheme = options.database_url.partition(":")[0]
            raise ConfigError(
                f"the database's URL begins with {scheme!r}; wanted postgresql+asyncpg://USER:PASSWORD@HOST/NAME, or "
                "none for SQLite in PREFECT_HOME"
            )
        added["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = options.database_url
    unwanted = {"PREFECT_API_URL", CLIENT_AUTH}  # those of a client
    return {name: value for name, value in os.environ.items() if name not in unwanted} | added


def _check_host(options: ServerOptions) -> None:
    if _is_loopback(options.host) or os.environ.get(SERVER_AUTH):
        return
    raise ConfigError(
        f"--host {options.host} would let everyone on the network run commands on the workers; set {SERVER_AUTH}="
        "USER:PASSWORD (for clients: PREFECT_API_AUTH_STRING), or listen on 127.0.0.1"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _any_address(host: str) -> bool:
    return host in ("0.0.0.0", "::")


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# --- finding one -----------------------------------------------------------------------------------------------------


def server_log() -> Path:
    """Where a server of ours writes what it has to say."""
    return _home() / LOG


def _home() -> Path:
    from prefect.settings import PREFECT_HOME

    return Path(PREFECT_HOME.value())


def _record() -> Path:
    return _home() / RECORD


@contextmanager
def recorded(api: str) -> Iterator[None]:
    """Let other commands of this user (the same PREFECT_HOME) find a server while the block runs."""
    record = _record()
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"api": api, "pid": os.getpid()}) + "\n")
    try:
        yield
    finally:
        record.unlink(missing_ok=True)


@contextmanager
def own_password() -> Iterator[None]:
    """Let this process, and the workers that it starts, be clients of the server that it starts."""
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

    password = os.environ.get(SERVER_AUTH)
    with temporary_settings({PREFECT_API_AUTH_STRING: password} if password else {}):
        yield


def find_server(also: str | None = None) -> str | None:
    """The API's address: PREFECT_API_URL or the profile's, else a server of ours that answers; None if there is none.

    Args:
        also: another address where one may answer.

    Raises:
        ConfigError: the configured one does not answer.
    """
    from prefect.settings import PREFECT_API_URL

    configured = PREFECT_API_URL.value()
    if configured:
        check_server(configured)
        return str(configured)
    places = [] if also is None else [also]
    with suppress(OSError, ValueError, KeyError):  # where no server of ours has been started
        places.insert(0, str(json.loads(_record().read_text())["api"]))
    return next((api for api in places if _answers(api) is None), None)


def check_server(api: str) -> None:
    """Make sure that a Prefect API answers at an address, and answers us.

    Raises:
        ConfigError: it does not answer, wants a password, or is something else.
    """
    problem = _answers(api)
    if problem is not None:
        raise ConfigError(problem)


@contextmanager
def connected(api: str | None = None) -> Iterator[str]:
    """Prefect's clients talk to this API, or to the one that `find_server` finds; yields its address.

    Raises:
        ConfigError: there is none, or it does not answer.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    api = api or find_server()
    if api is None:
        raise ConfigError(
            "no Prefect server is running here; start one by rl4seg up, or set PREFECT_API_URL to another one's "
            "address, e.g. http://HOST:4200/api"
        )
    with temporary_settings({PREFECT_API_URL: api}):
        yield api


def dashboard(api: str) -> str:
    """The dashboard's address of an API's, as browsers know it where RL4SEG_PUBLIC_URL says so."""
    return (os.environ.get(PUBLIC_URL) or api.rstrip("/").removesuffix("/api")).rstrip("/")


def _answers(api: str) -> str | None:
    """None where a Prefect API answers us, else what is wrong and what to do."""
    from prefect.settings import PREFECT_API_AUTH_STRING

    request = urllib.request.Request(f"{api.rstrip('/')}/admin/version")
    password = PREFECT_API_AUTH_STRING.value()
    if password:
        secret = b64encode(str(password).encode()).decode()
        request.add_header("Authorization", f"Basic {secret}")
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            version = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            got = "the password that was given is wrong" if password else "it wants a password"
            return f"the Prefect server at {api} refuses: {got}; set {CLIENT_AUTH}=USER:PASSWORD"
        return f"{api} answers {error.code}: no Prefect API; correct PREFECT_API_URL (it ends in /api)"
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"no Prefect server answers at {api} ({reason}); start it, or correct PREFECT_API_URL"
    if not isinstance(version, str):
        return f"{api} is no Prefect API; correct PREFECT_API_URL (it ends in /api)"
    return None
