"""Rule tables: for each method, what every kind of operation does on the way back."""

from .affine import Epsilon as Epsilon
from .gradient import GRADIENT as GRADIENT
from .lrp import epsilon_table as epsilon_table
from .rectified import DECONVOLUTION as DECONVOLUTION
from .rectified import GUIDED as GUIDED
