"""TensorFlow and Keras."""

from .framework import TensorFlow

__all__ = ["TensorFlow"]
