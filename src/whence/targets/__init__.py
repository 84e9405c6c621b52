"""Which number is explained: a class, a unit of a layer, a difference of two, any function."""

from .base import Target as Target
from .choose import difference as difference
from .choose import find as find
from .choose import logit as logit
from .choose import make as make
from .choose import neuron as neuron
from .choose import output as output
from .choose import pick as pick
from .classes import Callback as Callback
from .classes import Classes as Classes
from .classes import Difference as Difference
from .classes import Top as Top
from .neuron import Neuron as Neuron
from .neuron import channel_axis as channel_axis
from .token import Token as Token
from .token import token as token
