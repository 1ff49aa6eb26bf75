"""The sweep over the zoos: does each model give a right pair, and what would the pair save?"""

from bench.zoo.record import Record
from bench.zoo.run import sweep

__all__ = ["Record", "sweep"]
