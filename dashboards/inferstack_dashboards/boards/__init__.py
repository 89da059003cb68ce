"""The boards, in the order in which an operator reads them."""

from inferstack_dashboards.boards.cost import COST
from inferstack_dashboards.boards.gpu import GPU
from inferstack_dashboards.boards.models import MODELS
from inferstack_dashboards.boards.overview import OVERVIEW
from inferstack_dashboards.boards.releases import RELEASES
from inferstack_dashboards.boards.requests import REQUEST_ANALYTICS
from inferstack_dashboards.boards.scaling import SCALING
from inferstack_dashboards.panels import Board

BOARDS: tuple[Board, ...] = (OVERVIEW, MODELS, GPU, COST, SCALING, REQUEST_ANALYTICS, RELEASES)
