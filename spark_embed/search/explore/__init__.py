"""A page to look at an index with: one process, a few routes, and nothing from outside; knows no Spark."""
