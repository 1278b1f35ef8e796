"""How Spark itself reaches S3: jars, settings, credentials; the workers' own reading is in storage."""
