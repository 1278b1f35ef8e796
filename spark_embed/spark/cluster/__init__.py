"""What settings and executors of a session are, and what is wrong with them for this job; changes nothing."""
