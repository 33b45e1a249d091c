"""The commands of `lila-train`, a module each, which parse what the user gave and say what came of it.

A command imports what computes when it is called, so that the help comes at once.
"""
