from .inference.loading import load as load
from .inference.model import Lila as Lila
