"""The `rl4seg` command. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.command_line import load, restart_from
from flows.operations.commands import operations
from flows.review_commands import review
from reward_data.errors import REFUSALS, Rl4SegError

app = typer.Typer(
    help="Reinforcement-learning domain adaptation of medical image segmentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
anatomy = typer.Typer(
    help="Check masks against anatomical rules, or fit the rules' thresholds.", no_args_is_help=True
)
data = typer.Typer(help="Look at a dataset.", no_args_is_help=True)
app.add_typer(operations)
app.add_typer(anatomy, name="anatomy")
app.add_typer(data, name="data")
app.add_typer(review, name="review")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key=value, e.g. seed=1 ppo.epochs=2 target.path=DIR; from=ppo@2 runs stages anew."),
]
Run = Annotated[Path, typer.Argument(help="A run folder, e.g. runs/demo.")]
Model = Annotated[Path, typer.Argument(help="A run, a model package (RUN/policy) or an exported bundle.")]
Folder = Annotated[Path, typer.Argument(help="nnU-Net raw folder, or folder of label files.")]
Rules = Annotated[str, typer.Option(help="A shipped rule set (lv_myo, lv_myo_public) or a YAML file.")]
Merge = Annotated[list[str] | None, typer.Option(help="Native label merged into a class, e.g. --merge 3=0.")]


def main() -> None:
    """Entry point: an error of the user's is one message and exit code 2, without a traceback."""
    try:
        app()
    except Rl4SegError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        message = _refusal(error)
    else:
        return
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    sys.exit(2)


def _refusal(error: OSError) -> str:
    """What could not be written: as the stage says that it stopped, else in the system's words."""
    before: BaseException | None = error
    while before is not None:
        if isinstance(before, Rl4SegError):
            return str(before)
        before = before.__context__
    return (
        f"{error.filename or 'a file'}: cannot be written ({error.strerror}); free some space, mend the permissions or "
        "choose another folder, then run the same command again: finished stages are kept"
    )


@app.command()
def run(
    config: Annotated[
        str, typer.Argument(help="A YAML config, or the name of a shipped one (auto_iteration/demo).")
    ],
    overrides: Overrides = None,
) -> None:
    """Run a config here and now; finished stages are reused, an interrupted one goes on."""
    from flows.launch import execute

    restart, rest = restart_from(overrides)
    execute(load(config, rest), restart)


@app.command()
def demo(overrides: Overrides = None) -> None:
    """Adapt a policy to a shifted ultrasound phantom: the main job on embedded data."""
    from flows.launch import execute

    restart, rest = restart_from(overrides)
    execute(load("auto_iteration/demo", rest), restart)


@app.command()
def compare(
    config: Annotated[str, typer.Argument(help="A YAML config of a run, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="seeds=0,1,2 and key=value, e.g. rivals.tent=false; from=ppo@2."),
    ] = None,
) -> None:
    """The loop against its rivals at equal gradient steps, over several seeds: table, intervals, tests, page."""
    from flows.command_line import as_comparison
    from flows.launch import execute

    restart, rest = restart_from(overrides)
    execute(as_comparison(config, rest), restart)


@app.command()
def ablate(
    config: Annotated[str, typer.Argument(help="A YAML config of a run, or the name of a shipped one.")],
    study: Annotated[str, typer.Argument(help="A shipped study, e.g. critic, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="seeds=0,1 and key=value of the run; from=ppo@2.")
    ] = None,
) -> None:
    """Variants of the loop over several seeds, scored on held-back selection images: what matters in the recipe?"""
    from flows.command_line import as_ablation
    from flows.launch import execute

    restart, rest = restart_from(overrides)
    execute(as_ablation(config, study, rest), restart)


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to create; gets two nnU-Net raw datasets.")],
    cases: Annotated[int, typer.Option(min=1, help="Images per domain.")] = 100,
    size: Annotated[int, typer.Option(min=32, help="Rows and columns of an image.")] = 128,
    shift: Annotated[float, typer.Option(min=0, max=2, help="Size of the domain shift, 0 = none.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
) -> None:
    """Write the two-domain ultrasound phantom as nnU-Net raw folders: a labelled source and an unlabelled target."""
    from reward_data.phantom import PhantomConfig
    from reward_data.phantom_io import write_phantom

    shape = (size, size)
    source = PhantomConfig(domain="source", cases=cases, shape=shape, seed=seed)
    target = PhantomConfig(
        domain="target", cases=cases, shape=shape, seed=seed + 1, shift=shift, test_fraction=0.3
    )
    write_phantom(out, source, target)
    typer.echo(f"wrote {cases} source and {cases} target images to {out}")


@app.command()
def status(run_folder: Run) -> None:
    """What each stage of a run did: built, cached, running, failed, stopped or waiting, and in what time."""
    from rich.table import Table

    from flows.console import console
    from flows.restart import stage_name
    from flows.run_folder import read_status

    table = Table("stage", "from=", "status", "seconds", "artifact", "figures", title=str(run_folder))
    rows = read_status(run_folder)
    for row in rows:
        figures = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.metrics.items()
        )
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        table.add_row(
            row.label,
            stage_name(row.label),
            row.status,
            seconds,
            (row.digest or "")[:12],
            "see below" if row.status == "waiting" else row.error or figures,
        )
    console().print(table)
    for row in rows:
        if row.status == "waiting":
            console().print(f"{row.label}: {row.error}", highlight=False, soft_wrap=True, markup=False)


@app.command()
def report(run_folder: Run) -> None:
    """The result table of a run and the path of its report."""
    from flows.launch import show

    show(run_folder)


@app.command()
def predict(
    model: Model,
    images: Annotated[
        Path, typer.Argument(help="An image, a folder of images, or a CSV with a column image.")
    ],
    output: Annotated[Path, typer.Argument(help="Folder of the results; a half-done one is gone on with.")],
    save: Annotated[
        str, typer.Option(help="What is written beside tables: any of masks, errors, overlays.")
    ] = "masks,errors,overlays",
    tta: Annotated[
        int, typer.Option(min=0, max=256, help="Test-time augmentation: changed copies per image.")
    ] = 0,
    tto: Annotated[
        int, typer.Option(min=0, max=100, help="Test-time optimisation of invalid masks: rounds.")
    ] = 0,
    window: Annotated[str, typer.Option(help="Large images: auto, none (shrink) or sliding.")] = "auto",
    scale: Annotated[
        float | None, typer.Option(min=0, help="Network pixels per image pixel, with --window sliding.")
    ] = None,
    post_process: Annotated[
        bool, typer.Option("--post-process", help="Keep the largest piece of every class, fill holes.")
    ] = False,
    iteration: Annotated[
        int | None, typer.Option(min=0, help="Of a run, 0 = source; default: handed out.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, max=1, help="PaSeR: share of the largest net's GFLOP per image.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 16,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remove results of another model or other options in OUTPUT.")
    ] = False,
) -> None:
    """Predict image files: masks, error maps, trust, pictures, a table and a contact sheet."""
    from flows.predict.command import predict as predict_images
    from flows.predict.request import request_from

    failed = predict_images(
        request_from(
            model, images, output, save=save, tta=tta, tto=tto, window=window, scale=scale, post_process=post_process,
            iteration=iteration, budget=budget, device=device, precision=precision, batch_size=batch_size,
            threads=threads, overwrite=overwrite,
        )
    )  # fmt: skip
    if failed:
        raise typer.Exit(1)


@app.command()
def classify(
    model: Annotated[Path, typer.Argument(help="A PatchDrop run, or its model/ folder.")],
    images: Annotated[
        Path,
        typer.Argument(help="A picture, a folder, a CSV with a column path, or an NPZ; labels are optional."),
    ],
    output: Annotated[Path, typer.Argument(help="Folder of the results: new, empty, or of the same before.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 64,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")] = None,
) -> None:
    """Name the class of images by a PatchDrop model: a table with the patches that were looked at, and examples."""
    from flows.classify import classify as classify_images
    from flows.classify import request_from

    failed = classify_images(
        request_from(
            model, images, output, device=device, precision=precision, batch_size=batch_size, threads=threads
        )
    )
    if failed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    model: Model,
    dataset: Annotated[
        str | None,
        typer.Argument(help="nnU-Net folder, images/ with labels/, or CSV; default: the run's target."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="key=value of the dataset, e.g. 'group_pattern=^(patient\\d+)' spacing_known=false."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the result; default: RUN/evaluation.")] = None,
    iteration: Annotated[
        int | None, typer.Option(min=0, help="Of a run, 0 = source; default: handed out.")
    ] = None,
) -> None:
    """Score a model: Dice, distances, validity, calibration and trust, per case and in sum, with intervals."""
    from flows.evaluate_run import evaluate_run

    evaluate_run(model, dataset, out, iteration, overrides or [])


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Argument(help="Folder to create.")],
    form: Annotated[str, typer.Option("--format", help="bundle, torchscript or onnx.")] = "bundle",
    force: Annotated[bool, typer.Option(help="Replace an earlier export.")] = False,
    authors: Annotated[str | None, typer.Option(help="Who made the model.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    modality: Annotated[str | None, typer.Option(help="US, CT, MR ...")] = None,
    intended_use: Annotated[str | None, typer.Option(help="What it may be used for.")] = None,
) -> None:
    """Hand a policy out: MONAI Bundle, TorchScript or ONNX, checked against it on writing."""
    from flows.export import export_run

    details = {"authors": authors, "licence": licence, "modality": modality, "intended_use": intended_use}
    export_run(model, out, form, force, details)


@app.command()
def uncertainty(
    run_folder: Run,
    run: Annotated[
        list[Path] | None,
        typer.Option(help="A run of another seed, for the ensemble; repeat it for more."),
    ] = None,
    dice_below: Annotated[
        float | None, typer.Option(min=0, max=1, help="An image is bad if its mean Dice is below this.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, e.g. dropout_passes=20 augmentation_draws=0.")
    ] = None,
) -> None:
    """Compare ways to be sure of a run's masks: calibration, finding bad images, and what each costs."""
    from flows.uncertainty import measure_run

    measure_run(run_folder, run or [], dice_below, overrides or [])


@anatomy.command()
def check(folder: Folder, rules: Rules = "lv_myo", merge: Merge = None) -> None:
    """Print the acceptance of a folder's masks (nnU-Net raw or plain), per rule."""
    from flows.anatomy_tables import print_acceptance

    print_acceptance(folder, rules, merge or [])


@anatomy.command()
def fit(
    folder: Folder,
    rules: Rules = "lv_myo",
    merge: Merge = None,
    acceptance: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the masks that the fitted set accepts.")
    ] = 0.995,
    margin: Annotated[
        float, typer.Option(min=0, help="Widen every threshold by this share of the values' range.")
    ] = 0.25,
    out: Annotated[Path | None, typer.Option(help="Write the rule set here; default: print it.")] = None,
) -> None:
    """Propose thresholds from labelled masks at a chosen acceptance."""
    from flows.anatomy_tables import fit_rules

    fit_rules(folder, rules, merge or [], acceptance, margin, out)


@data.command("class-stats")
def class_stats(
    folder: Folder,
    names: Annotated[str | None, typer.Option(help="Classes in order, e.g. background,lv,myo.")] = None,
    merge: Merge = None,
    smooth: Annotated[
        float, typer.Option(min=0, help="Added to every frequency before it is inverted.")
    ] = 0.1,
    ignore_index: Annotated[int | None, typer.Option(help="Native label that counts nowhere.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write .yaml or .json.")] = None,
) -> None:
    """Class frequencies and class weights of a folder of labels."""
    from flows.class_statistics import print_class_statistics

    print_class_statistics(folder, names, merge, smooth, ignore_index, out)
