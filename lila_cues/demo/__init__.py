"""Rendered scenes with known masks, depth and flow, for a machine that has neither data nor weights.

Everything that is measured on them is a demonstration, and is to be labelled as one.
"""

from lila_cues.demo.dataset import DemoSettings, render

__all__ = ["DemoSettings", "render"]
