from .images import explored as explored
from .images import short_names as short_names
from .page import Explored as Explored
from .page import build_page as build_page
