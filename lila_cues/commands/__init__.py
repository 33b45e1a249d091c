"""The commands of `lila-cues`: a module each, or one for a few that look after a store.

What they say stands in the modules whose names end in `_words`. What takes long to import, PyTorch above all, is
imported when a command runs, so that `--help` comes at once.
"""
