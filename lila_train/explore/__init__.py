"""A page that shows what the features of some images know: similarity at a click, segments from a few labels.

`explored` computes an image's features, `build_page` packs those of several images into one HTML file; importing this
package imports neither.
"""

import lazy_loader

# PyTorch takes seconds to import: a name's module is imported when the name is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
