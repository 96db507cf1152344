"""The README beside an exported graph: what to put in, what comes out."""

from __future__ import annotations

from pathlib import Path

from rl4seg.export.details import ExportDetails, class_lines, preparation
from rl4seg.package import ModelPackage


def write_readme(
    package: ModelPackage,
    folder: Path,
    details: ExportDetails,
    form: str,
    names: tuple[str, str],
    use: str,
) -> None:
    """Write ``README.md``; ``names`` are the files of the policy and of the reward net."""
    model, spec = package.model.spec, package.spec
    shape = ", ".join(str(size) for size in spec.preprocess.shape)
    lines = [
        f"# {spec.name} as {form}",
        "",
        f"Segmentation policy of iteration {spec.iteration}. {details.intended_use}",
        "",
        f"Input: float32 `(B, {model.in_channels}, {shape})`, any B. Output: logits `(B, {len(model.class_names)}, "
        f"{shape})`. Classes: {', '.join(class_lines(package))}.",
        "",
        use,
        "",
        "## Preparing an image, and the way back",
        "",
        *(f"{number}. {step}" for number, step in enumerate(preparation(package), start=1)),
        "",
        *_reward_lines(package, names[1]),
        f"Authors: {details.authors}. Licence of the weights: {details.licence}.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _reward_lines(package: ModelPackage, name: str) -> list[str]:
    if package.reward is None:
        return []
    return [
        "## Error map",
        "",
        f"`{name}` takes the image and the one-hot mask side by side, `C + K` channels, and gives one logit z per "
        f"pixel. Probability that a pixel is wrong: 1 - sigmoid(z / {package.reward.temperature:.6g}) x softmax "
        "of the mask's class.",
        "",
    ]
