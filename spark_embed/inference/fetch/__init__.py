"""A reference -> the encoded bytes of one image; knows no image format."""
