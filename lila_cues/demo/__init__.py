"""Rendered scenes with known masks, depth and flow, for a machine without data or weights."""
