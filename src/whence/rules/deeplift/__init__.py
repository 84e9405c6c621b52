"""DeepLIFT: multipliers from the difference to a reference, op by op."""

from .halves import Halves as Halves
from .halves import ambiguous as ambiguous
from .rescale import Ledgered as Ledgered
from .rescale import rescale_rule as rescale_rule
from .rescale import unknown_by_gradient as unknown_by_gradient
from .reveal import Revealed as Revealed
