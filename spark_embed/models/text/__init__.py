"""Texts -> embeddings, alone or beside their images, and labels that are given as words; knows no Spark."""
