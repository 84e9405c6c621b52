"""What each word and flag of the commands means, as ``--help`` tells it."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

__all__ = [
    "ClassNames", "Composite", "Difference", "Framework", "Image", "Images", "Json", "Layer",
    "LookWeights", "Methods", "Model", "Neuron", "Options", "Out", "OutputName", "Shape", "Size",
    "Target", "Weights",
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
LookWeights = Annotated[
    str | None, Parameter(help="A local file of weights; not needed, and none are downloaded.")
]
Size = Annotated[str | None, Parameter(help="HEIGHTxWIDTH that images are brought to: 224x224.")]
Shape = Annotated[
    str | None, Parameter(help="Shape of a random input instead, the batch first: 1,3,64,64.")
]
Image = Annotated[
    str | None, Parameter(help="A picture to run; without one, random numbers of the model's size.")
]


Images = Annotated[str, Parameter(help="Pictures, folders, or quoted patterns: 'photos/*.jpg'.")]
Methods = Annotated[
    list[str] | None,
    Parameter(help="A method from `whence methods`; several times for several. Default: lrp."),
]
Target = Annotated[
    list[str] | None,
    Parameter(help="The class, by number or name; once, or once an image. Default: the answer."),
]
Difference = Annotated[
    tuple[str, str] | None, Parameter(help="Two classes A B: what speaks for A rather than B.")
]
Neuron = Annotated[
    str | None,
    Parameter(
        help="A unit instead of a class: LAYER:CHANNEL, or LAYER:CHANNEL:POSITION with mean, max, "
        "a number or ROW,COLUMN."
    ),
]
OutputName = Annotated[
    str | None, Parameter(help="Which output, by name or place, of a model with several.")
]
Layer = Annotated[
    str | None, Parameter(help="Attribute to this layer's output instead of the input.")
]
Composite = Annotated[str | None, Parameter(help="Which rules lrp uses: auto or epsilon.")]
Options = Annotated[
    list[str] | None, Parameter(help="An option of a method, NAME=VALUE: eps=1e-4.")
]
Out = Annotated[
    str,
    Parameter(
        help="A .png or .svg file for a picture, an .npz file for the numbers, or a folder for "
        "both, an image at a time."
    ),
]
ClassNames = Annotated[str | None, Parameter(help="A file of class names, one a line, or JSON.")]
