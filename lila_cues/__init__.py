"""Stage one: from videos to a store of cues, depth, flow and refined encoder features.

`lila-cues build` runs it. The frozen networks and PAMR serve without a store too: a network by its name, and `refine`,
which carries a coarse map to the edges of an image.
"""

import lazy_loader

# PyTorch takes seconds to import: a name's module is imported when the name is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
