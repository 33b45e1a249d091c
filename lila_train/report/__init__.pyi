from .ablations import AblationTable as AblationTable
from .ablations import write_ablations as write_ablations
from .comparison import write_comparison as write_comparison
from .demo import DemoReport as DemoReport
from .demo import write_demo_report as write_demo_report
from .tables import TaskTable as TaskTable
