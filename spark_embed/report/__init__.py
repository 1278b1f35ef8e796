"""A run or a comparison as one page for people, and the same as Markdown; knows neither Spark nor a model."""
