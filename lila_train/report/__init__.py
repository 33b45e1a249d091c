"""What came of it, to look at: the demo's page, tables of results, tables of ablations.

Each `write_…` makes files that need nothing else, from what `lila-train eval`, `run` and `ablate` left on disk;
importing this package imports none of it.
"""

import lazy_loader

# PyTorch takes seconds to import: a name's module is imported when the name is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
