"""Which weights are kept: exactly one rule per run."""
