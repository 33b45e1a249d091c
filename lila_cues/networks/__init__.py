"""The frozen networks of stage one, chosen by name; importing this package imports none of them.

`load_encoder`, `load_depth` and `load_flow` give networks in eval mode without gradients, each with a `source` that
says where its weights came from.
"""

import lazy_loader

# PyTorch takes seconds to import: a name's module is imported when the name is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
