"""How good a model is on a split: metrics with intervals, and figures per class."""
