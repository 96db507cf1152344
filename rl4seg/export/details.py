"""What an export says beside its weights, where the model package does not know it, and what a reader must know."""

from __future__ import annotations

from pydantic import Field

from reward_data.types import Config
from rl4seg.package import ModelPackage

NOT_STATED = "not stated"


class ExportDetails(Config):
    """What only the maker of an export can say."""

    authors: str = Field(default=NOT_STATED, description="Who made the model.")
    licence: str = Field(default=NOT_STATED, description="Licence of the weights, e.g. CC-BY-NC-4.0.")
    modality: str = Field(default="n/a", description="Kind of images, e.g. US, CT, MR.")
    intended_use: str = Field(
        default="Research. Not cleared for diagnosis: validate on images of your own scanner and site first.",
        description="What the model may be used for.",
    )


def preparation(package: ModelPackage) -> list[str]:
    """The way from a file to the network's input and back, one step a line, in words."""
    settings = package.spec.preprocess
    shape = " x ".join(str(size) for size in settings.shape)
    intensity = {
        "minmax": "Per channel, (value - minimum) / (maximum - minimum); a constant channel becomes 0.",
        "percentile": "Per channel, percentiles 1 and 99 to 0 and 1, clipped; a constant channel becomes 0.",
        "divide_255": "Divide by 255; values outside 0..255 are refused.",
        "none_clip01": "Clip to [0, 1].",
    }[settings.intensity]
    size = {
        "physical": f"Resize so that the image, in mm, just fits {shape} with square pixels.",
        "pixels": f"Resize so that the image just fits {shape}, its aspect in pixels kept.",
        "stretch": f"Resize to {shape}, whatever the aspect.",
    }[settings.aspect]
    if settings.spacing_mm is not None:
        size = f"Resample to {settings.spacing_mm} mm per pixel; what is larger than {shape} is refused."
    equalise = f"CLAHE (scikit-image equalize_adapthist, clip_limit={settings.clahe_clip}) per channel."
    return [
        "Turn the array upright: first axis image row, second column. NIfTI (x, y) is transposed.",
        intensity,
        size
        + " Output pixel i looks at (i + .5) n / m - .5; the kernel is a triangle as wide as the larger pixel, its "
        "weights sum to 1, axis after axis.",
        *([equalise] if settings.clahe_clip is not None else []),
        f"Pad with 0 to {shape}, (grid - size) // 2 before. Order (batch, channel, row, column[, depth]), float32.",
        "Back: softmax over the classes, cut the padding, resize each class to the native pixels by the same kernel, "
        "take the largest.",
    ]


def class_lines(package: ModelPackage) -> list[str]:
    """Value and name of each class."""
    return [f"{value}: {name}" for value, name in enumerate(package.spec.labels.names)]
