"""Images -> embeddings, by transformers and timm: a network and its preprocessing; knows no Spark."""
