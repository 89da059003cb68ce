"""How long a scrape of a loaded runtime takes, by Prometheus' own clock.  python -m tests.dashboards.live [SECONDS]"""

import statistics
import sys
import tempfile
from pathlib import Path

from tests.dashboards.live.stand import stand


def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder, stand(Path(folder), seconds) as run:
        for line in run.ask('scrape_duration_seconds{environment="live"}'):
            taken = [value * 1000 for value in line.values]
            samples = run.now(f'scrape_samples_scraped{{slot="{line.labels["slot"]}",environment="live"}}')[0].values[0]
            print(
                f"{line.labels['slot']}: {len(taken)} scrapes of {samples:.0f} series under {sum(run.answered.values())} requests: "
                f"median {statistics.median(taken):.1f} ms, p99 {statistics.quantiles(taken, n=100)[98]:.1f} ms, most {max(taken):.1f} ms"
            )


main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
