"""The driver's run: what is left, binding, waves, retry, error budget, progress; knows no image, no model."""
