"""Where Spark runs: session, settings, types, tasks, jobs, daemon; knows no image and no data set."""
