"""The physical limit: what a graph has to do, what this machine can do at most, and what lies between."""

from export.limits.peaks import Peaks, last_cache_bytes, measure_peaks
from export.limits.shares import Limit, hold_against_peaks
from export.limits.work import Work, count_work

__all__ = ["Limit", "Peaks", "Work", "count_work", "hold_against_peaks", "last_cache_bytes", "measure_peaks"]
