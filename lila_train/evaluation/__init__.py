"""What features are worth: models under test, protocols on data sets, and one way to run any of them on any other.

A `ModelSpec` says which model, `open_task` which protocol on which folder, and `evaluate` computes the result, part by
part, into a folder that it goes on in; importing this package imports none of it.
"""

import lazy_loader

# PyTorch takes seconds to import: a name's module is imported when the name is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
