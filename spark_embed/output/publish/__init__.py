"""Complete waves -> the published files, and the list of them, written last; needs no model."""
