"""Indices: the table of references of what is not parquet, made once and kept as parquet.

A file for each layout.
"""
