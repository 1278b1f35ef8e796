"""Doors for programs instead of people; they decide nothing of what the rooms below do."""
