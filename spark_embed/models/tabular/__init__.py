"""Models of tables: rows of numbers and categories -> scores; the signature says which columns, and of what."""
