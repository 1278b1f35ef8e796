"""A published baseline against the job, one mistake mended at a time; each step is a process of its own."""
