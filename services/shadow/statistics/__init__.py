"""Statistics that hold however often one looks: for means, shares and quantiles. Pure."""

from services.shadow.statistics.interval import Interval
from services.shadow.statistics.latency import Latencies, ratio
from services.shadow.statistics.mean import Mean
from services.shadow.statistics.share import Share

__all__ = ["Interval", "Latencies", "Mean", "Share", "ratio"]
