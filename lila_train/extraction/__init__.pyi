from .bases import basis_fingerprint as basis_fingerprint
from .bases import shared_basis as shared_basis
from .files import Extractor as Extractor
from .network import Network as Network
from .settings import Cache as Cache
from .settings import Settings as Settings
