"""Health check of the image; exit code 0 or a message and 1. Standard library only: it runs often.

A container that has PREFECT_API_URL serves that server's pool: it is healthy where the server counts every worker of
this host as online, that is, has had its heartbeat within the last 90 s. Any other is the server: it is healthy where
its API answers. A worker whose server is away is therefore unhealthy too, as it cannot take a run.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import urllib.error
import urllib.request
import uuid
from base64 import b64encode
from typing import Any

POOL = "gpu"
OWN_API = "http://127.0.0.1:4200/api"
NO_CSRF = 422  # what /csrf-token answers where the protection is off
SECONDS = 10.0


def main() -> None:
    """Check the worker of PREFECT_API_URL, or the server of this container."""
    api = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    try:
        problem = worker_problem(api, socket.gethostname()) if api else server_problem(OWN_API)
    except urllib.error.HTTPError as error:
        problem = f"{error.url} answers {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        problem = f"{api or OWN_API} does not answer: {error}"
    sys.exit(problem)


def server_problem(api: str) -> str | None:
    """None where the API answers that it is well; this path needs no password."""
    said = ask(f"{api}/health")
    return None if said is True else f"{api}/health says {said!r}"


def worker_problem(api: str, host: str) -> str | None:
    """None where all workers of this host are online."""
    workers = ask(f"{api}/work_pools/{POOL}/workers/filter", {}, csrf_headers(api))
    states = {each["name"]: each["status"] for each in workers if each["name"].startswith(f"{host}-")}
    if not states:
        return f"no worker of {host} has reported to {api}"
    silent = sorted(name for name, status in states.items() if status != "ONLINE")
    return f"not online: {', '.join(silent)}" if silent else None


def csrf_headers(api: str) -> dict[str, str]:
    """What a POST has to carry where the server's protection against forged requests is on."""
    client = str(uuid.uuid5(uuid.NAMESPACE_DNS, socket.gethostname()))
    try:
        token: str = ask(f"{api}/csrf-token?client={client}")["token"]
    except urllib.error.HTTPError as error:
        if error.code == NO_CSRF:
            return {}
        raise
    return {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": client}


def ask(url: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
    """GET, or POST where there is a body; returns the JSON that came back."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})})
    password = os.environ.get("PREFECT_API_AUTH_STRING")
    if password:
        request.add_header("Authorization", f"Basic {b64encode(password.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.loads(answer.read())


if __name__ == "__main__":
    main()
