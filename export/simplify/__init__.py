"""Takes out of a traced graph what no answer needs: shapes computed in each call, and tokens that nobody reads.

Both leave what the graph says alone. Tracing writes down how torch finds the shape of every reshape, though only the
batch and the length are free; and where a head reads the first token only, the last layer computes all others for
nobody, while their keys and values are all that is needed of them.
"""

from export.simplify.steps import simplify

__all__ = ["simplify"]
