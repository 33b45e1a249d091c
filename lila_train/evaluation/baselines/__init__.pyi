from .asked import Asked as Asked
from .asked import Baseline as Baseline
from .catalog import BASELINES as BASELINES
from .clones import Code as Code
from .upsamplers import Upsampler as Upsampler
from .video import VideoBaseline as VideoBaseline
