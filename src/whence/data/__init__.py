"""The data that ships: handwritten digits and a small convolutional net that reads them.

The images come with scikit-learn; the net is defined once for PyTorch and once for Keras, and one
file of weights, made by ``scripts/train_digits.py``, fits both. Nothing is downloaded.
"""

from __future__ import annotations

from whence.data.digits import CLASSES, Mistakes, digits, digits_model, digits_weights, mistakes

__all__ = ["CLASSES", "Mistakes", "digits", "digits_model", "digits_weights", "mistakes"]
