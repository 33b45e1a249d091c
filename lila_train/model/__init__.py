"""A trained LILA model: loading, inference on images of any size, sharing and export. Needs no training code."""
