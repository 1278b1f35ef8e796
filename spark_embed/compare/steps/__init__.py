"""The programs of the ladder, to be read: each mends one mistake of the one before (ladder.py)."""
