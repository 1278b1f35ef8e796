"""One task before the first wave: load the model, compare it, time it; its answers bind the whole run."""
