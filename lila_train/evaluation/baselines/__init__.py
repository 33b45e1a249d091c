"""Other people's models behind the interface of `evaluation.models`; `BASELINES` lists them by name.

A baseline is described before it is loaded: what the user `Asked` of it, its `Code` at one revision, its weights. Code
of others is imported only when its baseline is loaded; importing this package imports none of it.
"""

import lazy_loader

# PyTorch takes seconds to import: a name's module is imported when the name is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
