"""Boards, recording rules and alerts, generated from the runtime's metric catalogue. `python -m inferstack_dashboards` writes them.

files(Settings(thresholds={"ErrorsHigh": 0.05}))     # {path: text}, ready to be written or put into a ConfigMap
"""

from inferstack_dashboards.alert import Alert
from inferstack_dashboards.alerts import ALERTS, UnknownThreshold
from inferstack_dashboards.boards import BOARDS
from inferstack_dashboards.output import Settings, files

__all__ = ["ALERTS", "BOARDS", "Alert", "Settings", "UnknownThreshold", "files"]
