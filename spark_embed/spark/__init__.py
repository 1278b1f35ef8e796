"""Where Spark runs: session, settings, types, tasks, jobs, daemon. Knows no image and no data set."""
