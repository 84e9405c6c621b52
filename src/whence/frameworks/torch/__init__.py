"""PyTorch: the recorder and the waist's functions."""

from .framework import Torch as Torch
