"""The methods, at the three places where they act: augmentation, targets and weights."""
