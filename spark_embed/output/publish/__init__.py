"""Complete waves -> the published files, and the list of them, written last. Needs no model."""
