"""Images -> embeddings, by transformers and timm: a network and its preprocessing. Knows no Spark."""
