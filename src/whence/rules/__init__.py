"""Rule tables: for each method, what every kind of operation does on the way back."""

from .affine import Epsilon as Epsilon
from .affine import Norm as Norm
from .composite import Composite as Composite
from .domain import Domain as Domain
from .domain import Raised as Raised
from .flow import Pass as Pass
from .gradient import GRADIENT as GRADIENT
from .pooling import ProportionalPool as ProportionalPool
from .rectified import DECONVOLUTION as DECONVOLUTION
from .rectified import GUIDED as GUIDED
from .rooted import Box as Box
from .rooted import Flat as Flat
from .rooted import WSquare as WSquare
from .signed import AlphaBeta as AlphaBeta
from .signed import Gamma as Gamma
from .signed import ZPlus as ZPlus
