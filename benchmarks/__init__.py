"""How fast the job is, against bare loops and other systems; docs/speed.md says how to run and read this."""
