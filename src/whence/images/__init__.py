"""Images from files, folders, patterns and arrays into the array that a model takes.

``read`` does all of it; the parts are ``decode`` (one file or array to upright pixels) and
``Preprocess`` (pixels to model units and back). The originals stay, for pictures to lie on.
"""

from __future__ import annotations

from whence.images.decode import MAX_PIXELS, Picture, decode, picture
from whence.images.preprocess import Preprocess
from whence.images.reading import Images, read

__all__ = ["MAX_PIXELS", "Images", "Picture", "Preprocess", "decode", "picture", "read"]
