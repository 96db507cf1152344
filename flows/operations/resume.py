"""`rl4seg resume RUN`: the same as Retry in the dashboard, and the same for a run that no worker has started."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

from flows.command_line import load
from flows.operations.processes import Say
from flows.run_folder import LINEAGE, read_process
from reward_data.errors import ArtifactError, ConfigError

CONFIG = "config.yaml"


def resume_folder(folder: Path, say: Say) -> UUID | None:
    """Continue the run of a folder: in the pool, where a worker ran it (returns its id), else here and now.

    Raises:
        ConfigError: it is still running.
        ArtifactError: the folder is no run's.
    """
    if not (folder / CONFIG).is_file() or not (folder / LINEAGE).is_file():
        raise ArtifactError(
            f"{folder}: no {CONFIG} and {LINEAGE} here; give the folder of a run, e.g. runs/NAME"
        )
    process = read_process(folder)
    if process.deployed and process.flow_run is not None:
        return UUID(process.flow_run)  # its server knows better whether it has ended
    if process.alive():
        raise ConfigError(
            f"{folder}: process {process.pid} on {process.host} is still running it; wait for it or cancel it first"
        )
    from flows.launch import execute

    config = load(str((folder / CONFIG).absolute()), [])
    if Path(process.folder).is_dir():
        os.chdir(process.folder)  # relative paths in the config start from there
    say(f"continuing {folder} here")
    execute(config)
    return None
