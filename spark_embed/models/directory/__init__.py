"""A folder that brings its own code, config.json and model.py, as a model; knows no Spark and no network."""
