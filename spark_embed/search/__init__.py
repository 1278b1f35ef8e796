"""Index and query over the vectors of an output folder: neighbours of a picture, of words, of a row.

Knows no layout of data sets; makes no vector but that of a query.
"""
