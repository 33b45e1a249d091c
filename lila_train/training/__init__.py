"""Training the decoder on pairs of a cue store."""
