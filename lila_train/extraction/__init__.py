"""Pixel features of files: read, computed and written at once, kept as a cache that goes on where it was left.

An `Extractor` takes images and videos through a `Network` (the model with its `Settings`) into the folder of a `Cache`;
importing this package imports none of it.
"""

import lazy_loader

# PyTorch takes seconds to import: a name's module is imported when the name is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
