"""What storage/local.py does, on S3, and what S3 asks for; knows nothing of what a file holds."""
