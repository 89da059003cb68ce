"""A real Prometheus scrapes the real runtime under load: every query of every board has data, and no alert goes off."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from inferstack_dashboards import ALERTS, BOARDS
from inferstack_dashboards.output import Settings, recording_groups
from inferstack_dashboards.pictures import write
from tests.dashboards.live.stand import Stand, stand

pytestmark = [
    pytest.mark.parts,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed (Debian package prometheus)"),
]

PICTURES = Path(__file__).parents[2] / "docs" / "boards"
NEEDS_OTHERS = {"dcgm": "there is no GPU", "kubernetes": "there is no cluster"}
"""Panels that may be empty here, by what they need, and why."""
GPU_NAMES = {
    "gpu_utilization_percent",
    "gpu_utilization",
    "gpu_memory_usage_percent",
    "gpu_memory_usage",
    "llm_gpu_memory_usage_bytes",
}
MEANT_TO_SHOW = {
    "PromotionRunning": "both slots served during the run",
    "PromotionStuck": "both slots served; it goes off when that lasts an hour",
    "Watchdog": "it always goes off",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with stand(tmp_path_factory.mktemp("stand"), 60) as made:
        yield made


def test_the_load_was_varied_and_nothing_failed(run: Stand) -> None:
    assert {200, 400, 401, 429} <= set(run.answered)
    assert run.answered[200] > 100
    assert not [code for code in run.answered if code >= 500]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_query_of_a_board_has_data(run: Stand, board) -> None:
    empty = [
        f"{panel.title}: {query.expr}"
        for panel in board.panels
        if panel.needs not in NEEDS_OTHERS
        for query in panel.queries
        if not run.ask(query.expr)
    ]
    assert not empty, "\n".join(empty)


def test_only_panels_of_gpus_and_clusters_may_be_empty() -> None:
    left_out = {(board.title, panel.needs) for board in BOARDS for panel in board.panels if panel.needs in NEEDS_OTHERS}
    assert left_out == {("GPU Utilization", "dcgm"), ("Auto-scaling", "kubernetes")}


def test_every_recorded_name_has_data(run: Stand) -> None:
    names = {rule["record"] for group in recording_groups(Settings()) for rule in group["rules"]} - GPU_NAMES
    assert not [name for name in sorted(names) if not run.now(f'{{__name__="{name}"}}')]


def test_no_alert_goes_off_or_would(run: Stand) -> None:
    """Their conditions are looked at over the whole run, whatever time they must hold."""
    met = {alert.name for alert in ALERTS if run.ask(alert.query())}
    assert met == set(MEANT_TO_SHOW)
    firing = {line.labels["alertname"] for line in run.ask('ALERTS{alertstate="firing",severity=~"page|ticket"}')}
    assert not firing


def test_every_board_is_drawn(run: Stand, tmp_path: Path) -> None:
    """INFERSTACK_PICTURES=1 draws those of the documentation."""
    folder = PICTURES if os.environ.get("INFERSTACK_PICTURES") else tmp_path
    files = write(folder, run.ask_live)
    assert len(files) == len(BOARDS)
    assert all(file.stat().st_size > 20_000 for file in files)
    assert {file.name for file in PICTURES.glob("*.png")} == {file.name for file in files}
