"""How two answers to one request differ, by the kind of output. Pure.

A comparator gives for each row of an answer a difference between 0 (the same, as far as its kind
cares) and 1 (wholly different).
"""

from services.shadow.comparators.choose import Chosen, choose, refine
from services.shadow.comparators.kinds import Comparator, parse
from services.shadow.comparators.reservoir import Reservoir

__all__ = ["Chosen", "Comparator", "Reservoir", "choose", "parse", "refine"]
