"""A page that shows what the features of some images know: similarity at a click, segments from a few labels."""
