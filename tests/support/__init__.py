"""What tests share: makers of input, servers that misbehave, fakes at the seams, runs that are ended."""
