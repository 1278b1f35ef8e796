"""The driver's run: what is left, binding, waves, retry, error budget, progress. Knows no image, no model."""
