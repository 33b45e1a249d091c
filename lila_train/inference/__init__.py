"""A trained decoder at work: loaded by name or file, on images of any size and on videos, shared and exported.

Nothing here needs the code that trains.
"""
