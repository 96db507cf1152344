"""The `rl4seg` command. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reward_data.errors import Rl4SegError

if TYPE_CHECKING:
    from flows.config import AutoIterationConfig

app = typer.Typer(
    help="Reinforcement-learning domain adaptation of medical image segmentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
anatomy = typer.Typer(help="Check masks against anatomical rules, or fit the rules' thresholds.", no_args_is_help=True)
app.add_typer(anatomy, name="anatomy")

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, e.g. seed=1 ppo.epochs=2 target.path=DIR")]
Run = Annotated[Path, typer.Argument(help="A run folder, e.g. runs/demo.")]
Rules = Annotated[str, typer.Option(help="A shipped rule set (lv_myo, lv_myo_public) or a YAML file.")]
Merge = Annotated[list[str] | None, typer.Option(help="Native label merged into a class, e.g. --merge 3=0.")]


def main() -> None:
    """Entry point: an error of the user's is one message and exit code 2, without a traceback."""
    try:
        app()
    except Rl4SegError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)


def _load(config: str, overrides: list[str] | None) -> AutoIterationConfig:
    from flows.config import AutoIterationConfig
    from flows.config_loader import load_config

    return load_config(config, overrides or [], AutoIterationConfig)


@app.command()
def run(
    config: Annotated[str, typer.Argument(help="A YAML config, or the name of a shipped one (auto_iteration/demo).")],
    overrides: Overrides = None,
) -> None:
    """Run a config here and now; finished stages are reused, an interrupted one goes on."""
    from flows.launch import execute

    execute(_load(_resolve(config), overrides), ["run", config, *(overrides or [])])


@app.command()
def demo(overrides: Overrides = None) -> None:
    """Adapt a policy to a shifted ultrasound phantom: the main job on embedded data."""
    from flows.launch import execute

    execute(_load(_resolve("auto_iteration/demo"), overrides), ["demo", *(overrides or [])])


def _resolve(config: str) -> str:
    from flows.presets import preset_path

    return config if Path(config).suffix in {".yaml", ".yml"} or Path(config).exists() else str(preset_path(config))


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to create; gets two nnU-Net raw datasets.")],
    cases: Annotated[int, typer.Option(help="Images per domain.")] = 100,
    size: Annotated[int, typer.Option(help="Rows and columns of an image.")] = 128,
    shift: Annotated[float, typer.Option(help="Size of the domain shift, 0 (none) to 2.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Write the two-domain ultrasound phantom as nnU-Net raw folders: a labelled source and an unlabelled target."""
    from reward_data.phantom import PhantomConfig
    from reward_data.phantom_io import write_phantom

    shape = (size, size)
    source = PhantomConfig(domain="source", cases=cases, shape=shape, seed=seed)
    target = PhantomConfig(domain="target", cases=cases, shape=shape, seed=seed + 1, shift=shift, test_fraction=0.3)
    write_phantom(out, source, target)
    typer.echo(f"wrote {cases} source and {cases} target images to {out}")
