"""What each word and flag of the commands means, as ``--help`` tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

__all__ = [
    "ClassNames", "Composite", "Framework", "Goal", "Image", "Images", "Json", "Look", "Methods",
    "Model", "Options", "Out", "Seed", "Size", "Stored", "Weights",
]  # fmt: skip

Json = Annotated[
    bool, Parameter(help="Print one JSON document instead of a table.", show_default=False)
]
Framework = Annotated[
    str | None,
    Parameter(help="torch or tensorflow, where there is a choice; else the installed one."),
]
Model = Annotated[
    str,
    Parameter(
        help="torchvision:NAME, timm:NAME, hf:NAME, keras:NAME, demo:digits, a .keras, .h5 or .pt2 "
        "file, a SavedModel folder, or path/to/file.py:function, which is run."
    ),
]
Weights = Annotated[
    str | None,
    Parameter(help="A local file of weights, or random; else those that come with the model."),
]
Size = Annotated[str | None, Parameter(help="HEIGHTxWIDTH that images are brought to: 224x224.")]
Image = Annotated[
    str | None, Parameter(help="A picture to run; without one, random numbers of the model's size.")
]
Images = Annotated[str, Parameter(help="Pictures, folders, or quoted patterns: 'photos/*.jpg'.")]
Methods = Annotated[
    list[str] | None,
    Parameter(help="A method from `whence methods`; several times for several. Default: lrp."),
]
Composite = Annotated[
    str | None, Parameter(help="Which rules lrp uses: auto, epsilon-plus, attn-lrp and others.")
]
Options = Annotated[
    list[str] | None, Parameter(help="An option of a method, NAME=VALUE: eps=1e-4.")
]
Seed = Annotated[
    int | None, Parameter(help="Names the random draws, of methods that draw. Default: 0.")
]
Out = Annotated[
    str,
    Parameter(
        help="A .png or .svg file for a picture, an .npz file for the numbers, a folder for both, "
        "an image at a time; or a .zarr store for one method and any number of images."
    ),
]
ClassNames = Annotated[str | None, Parameter(help="A file of class names, one a line, or JSON.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Goal:
    """Which number is explained, and where."""

    target: Annotated[
        list[str] | None,
        Parameter(
            help="The class, by number or name; once, or once an image. Default: the answer."
        ),
    ] = None
    difference: Annotated[
        tuple[str, str] | None, Parameter(help="Two classes A B: what speaks for A rather than B.")
    ] = None
    neuron: Annotated[
        str | None,
        Parameter(
            help="A unit instead of a class: LAYER:CHANNEL, or LAYER:CHANNEL:POSITION with mean, "
            "max, a number or ROW,COLUMN."
        ),
    ] = None
    output_name: Annotated[
        str | None, Parameter(help="Which output, by name or place, of a model with several.")
    ] = None
    layer: Annotated[
        str | None, Parameter(help="Attribute to this layer's output instead of the input.")
    ] = None


@Parameter(name="*")
@dataclass(frozen=True)
class Stored:
    """How a store is written; nothing else takes these."""

    batch_size: Annotated[
        int | None,
        Parameter(
            help="Of a .zarr store: how many images are explained and written at once, and all "
            "that a kill costs. Default: 16."
        ),
    ] = None
    resume: Annotated[
        bool,
        Parameter(
            help="Of a .zarr store that is there: go on with it, or refuse it.",
            negative="--no-resume",
        ),
    ] = True


@Parameter(name="*")
@dataclass(frozen=True)
class Look:
    """What a model is looked at with, where nothing is explained."""

    size: Size = None
    shape: Annotated[
        str | None, Parameter(help="Shape of a random input instead, the batch first: 1,3,64,64.")
    ] = None
    weights: Annotated[
        str | None, Parameter(help="A local file of weights; not needed, and none are downloaded.")
    ] = None
    framework: Framework = None
