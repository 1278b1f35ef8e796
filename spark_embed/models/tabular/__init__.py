"""Models of tables: rows of numbers and categories -> scores; a signature says which columns there are."""
