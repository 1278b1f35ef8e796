"""The same functions as storage/local.py on S3, and what S3 asks for."""
