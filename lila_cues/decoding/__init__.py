"""Frames of a video, by position: exact, upright, or an error that says what is wrong with the file."""

from lila_cues.decoding.reader import FrameReader, ImageReader
from lila_cues.decoding.video import DECODERS, decoder_version, open_video, require_decoder

__all__ = ["DECODERS", "FrameReader", "ImageReader", "decoder_version", "open_video", "require_decoder"]
