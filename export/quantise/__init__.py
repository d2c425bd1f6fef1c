"""Fewer bits: which layers of a graph are quantised, how, at what loss, and which stay fp32."""
