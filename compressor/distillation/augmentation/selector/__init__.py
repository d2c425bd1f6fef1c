"""Which added texts are kept: a policy learns it from what they do to the student on held-back target rows.

Our reading of Feng et al. (2021), arXiv:2101.08106 (L2A); everything here works on cached features in memory.
"""
