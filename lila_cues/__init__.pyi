from .networks import load_depth as load_depth
from .networks import load_encoder as load_encoder
from .networks import load_flow as load_flow
from .pamr import refine as refine
from .pamr import three_scales as three_scales
