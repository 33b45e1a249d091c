"""Pixel features of files: read, computed and written at once, kept as a cache that goes on where it was left."""
