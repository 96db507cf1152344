"""compose.yaml runs the real command line, with settings that exist, and gives away no more than it must."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli import app
from tests.docker.files import (
    DOCKER,
    ROOT,
    compose,
    environment_of_image,
    filled,
    health_check,
    in_image,
    ours,
    services,
    variables,
)

SECRETS = {"RL4SEG_AUTH_STRING": "team:word", "RL4SEG_POSTGRES_PASSWORD": "0123abcd"}
TEXT = "\n".join(line.partition(" #")[0] for line in (DOCKER / "compose.yaml").read_text().splitlines())


def environment(service: str) -> dict[str, str]:
    """A service's variables as compose fills them in."""
    return {name: filled(value, SECRETS) for name, value in services()[service]["environment"].items()}


def parsed(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """Name and parameters of an rl4seg command line, as the program itself reads them; unknown ones are an error."""
    group: Any = typer.main.get_command(app)
    with group.make_context("rl4seg", list(arguments)) as context:
        left = [*context._protected_args, *context.args]
        name, command, rest = group.resolve_command(context, left)
        return name, command.make_context(name, rest, parent=context).params


@pytest.mark.parametrize("name", [name for name, service in services().items() if "build" in service])
def test_every_command_is_one_of_the_programs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in environment(name).items():
        monkeypatch.setenv(variable, value)
    command, parameters = parsed(ours()[name]["command"])
    assert command == name.removesuffix("-cpu")
    if command == "server":
        assert parameters["host"] == "0.0.0.0"
        assert parameters["public_url"] == "http://127.0.0.1:4200"
        assert parameters["database_url"] == "postgresql+asyncpg://rl4seg:0123abcd@postgres:5432/prefect"
    else:
        assert parameters["pool"] == "gpu"


def test_the_server_is_allowed_to_listen_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.operations.servers import ServerOptions, server_environment

    for variable, value in environment("server").items():
        monkeypatch.setenv(variable, value)
    _, parameters = parsed(services()["server"]["command"])
    settings = server_environment(ServerOptions(**parameters))
    assert settings["PREFECT_SERVER_API_AUTH_STRING"] == SECRETS["RL4SEG_AUTH_STRING"]


def test_the_health_check_knows_pool_and_address() -> None:
    from flows.operations.deployments import POOL
    from flows.operations.servers import ServerOptions

    health = health_check()
    _, parameters = parsed(services()["server"]["command"])
    _, worker = parsed(services()["worker"]["command"])
    assert health.POOL == worker["pool"] == POOL
    assert ServerOptions(host=parameters["host"], port=parameters["port"]).api == health.OWN_API
    taken_for_a_worker = {
        name for name in ours() if "PREFECT_API_URL" in environment(name) | environment_of_image()
    }
    assert taken_for_a_worker == {"deploy", "worker", "worker-cpu"}


def test_every_prefect_variable_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import Settings

    given = environment_of_image() | {k: v for name in ours() for k, v in environment(name).items()}
    wanted = {name for name in given if name.startswith("PREFECT_")}
    for name in wanted:
        monkeypatch.setenv(name, given[name])
    known = Settings().to_environment_variables(exclude_unset=True)
    assert len(wanted) >= 4
    assert wanted - set(known) == set()


def test_every_other_variable_is_read_by_the_program() -> None:
    group: Any = typer.main.get_command(app)
    read = {each.envvar for command in group.commands.values() for each in command.params if each.envvar}
    given = {name for service in ours() for name in environment(service)}
    assert {name for name in given if not name.startswith("PREFECT_")} <= read


# --- the env file ----------------------------------------------------------------------------------------------------


def documented() -> dict[str, str]:
    """NAME=value lines of example.env; the optional ones stand behind a ``#``."""
    text = (DOCKER / "example.env").read_text()
    return dict(re.findall(r"^#?([A-Z0-9_]+)=(.*)$", text, re.MULTILINE))


def test_the_example_documents_every_variable_and_its_default() -> None:
    assert set(documented()) == {name for name, _, _ in variables(TEXT)}
    for name, sign, rest in variables(TEXT):
        if name in SECRETS:
            assert sign == ":?", f"{name} must have no default"
            assert documented()[name] == ""
        else:
            assert sign == ":-"
            assert filled(rest, {}) == documented()[name]


def test_no_secret_is_written_down() -> None:
    for name, service in services().items():
        for variable, value in service["environment"].items():
            if re.search("PASSWORD|AUTH|CONNECTION", variable):
                assert any(each in SECRETS for each, _, _ in variables(value)), f"{name}: {variable}"


def test_each_service_gets_only_the_secrets_that_it_needs() -> None:
    text = {name: str(service) for name, service in services().items()}
    assert {name for name in text if "RL4SEG_POSTGRES_PASSWORD" in text[name]} == {"postgres", "server"}
    assert {name for name in text if "RL4SEG_AUTH_STRING" not in text[name]} == {"postgres"}


def test_git_ignores_the_env_file() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout: nothing could be committed")
    ask = ["git", "-C", str(ROOT), "check-ignore", "--no-index", "docker/.env", "docker/example.env"]
    said = subprocess.run(ask, capture_output=True, text=True, check=False)
    assert said.stdout.split() == ["docker/.env"]


# --- what is open, and to whom ---------------------------------------------------------------------------------------


def test_only_the_dashboard_is_published_and_only_on_this_machine() -> None:
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert list(published) == ["server"]
    for port in published["server"]:
        assert filled(port, {}).startswith("127.0.0.1:"), port


def test_every_service_is_restricted() -> None:
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert "privileged" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert service.get("user", "image's") not in ("root", "0"), name


def test_the_database_is_reached_by_the_server_alone() -> None:
    assert compose()["networks"]["database"]["internal"] is True
    in_it = {name for name, service in services().items() if "database" in service.get("networks", [])}
    assert in_it == {"postgres", "server"}
    assert services()["postgres"]["networks"] == ["database"]


def test_each_starts_when_what_it_needs_is_ready() -> None:
    order = {
        name: {on: how["condition"] for on, how in service.get("depends_on", {}).items()}
        for name, service in services().items()
    }
    done = {"deploy": "service_completed_successfully"}
    assert order == {
        "postgres": {},
        "server": {"postgres": "service_healthy"},
        "deploy": {"server": "service_healthy"},
        "worker": done,
        "worker-cpu": done,
    }


# --- workers ---------------------------------------------------------------------------------------------------------


def test_the_worker_reserves_gpus_and_the_other_one_needs_none() -> None:
    (device,) = services()["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in services()["worker-cpu"]
    assert parsed(services()["worker-cpu"]["command"])[1]["gpus"] == "none"
    assert services()["worker-cpu"]["profiles"] == ["cpu"]


def test_runs_work_on_the_shared_volume() -> None:
    _, parameters = parsed(services()["deploy"]["command"])
    folder = str(parameters["folder"])
    assert folder == in_image("WORKDIR")[-1]
    for name in ("deploy", "worker", "worker-cpu"):
        mounted = [filled(volume, {}) for volume in services()[name]["volumes"]]
        assert f"data:{folder}" in mounted, name
    assert "data" in compose()["volumes"]


def test_a_stopped_worker_has_time_to_end_its_run() -> None:
    from flows.operations.workers import END_SECONDS

    for name in ("worker", "worker-cpu"):
        seconds = int(services()[name]["stop_grace_period"].removesuffix("s"))
        assert seconds >= 2 * END_SECONDS, name


def compose_program() -> list[str]:
    """Docker Compose v2, as a plugin or by itself; it reads files without an engine."""
    for program in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(program[0]) is not None:
            said = subprocess.run([*program, "version"], capture_output=True, text=True, check=False).stdout
            found = re.search(r"version v?(\d+)", said)
            if found and int(found[1]) >= 2:
                return program
    pytest.skip("Docker Compose v2 is not installed")


def test_compose_itself_reads_the_file(tmp_path: Path) -> None:
    env = tmp_path / "env"
    options = ["--env-file", str(env), "--file", str(DOCKER / "compose.yaml"), "config", "--quiet"]
    for content, ends_well in (("", False), ("\n".join(f"{n}={v}" for n, v in SECRETS.items()), True)):
        env.write_text(content)
        said = subprocess.run([*compose_program(), *options], capture_output=True, text=True, check=False)
        assert (said.returncode == 0) is ends_well, said.stderr
        assert ("docker/example.env" in said.stderr) is not ends_well
