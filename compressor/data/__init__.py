"""From a recipe's data settings to tokenised batches: sources, splits, the leakage filter, batches."""
