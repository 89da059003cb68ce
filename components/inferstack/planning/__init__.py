"""Pure planning: catalogues, fit, cost, quota, timeout chain. No I/O but its own data files, no Pulumi.

findings = plan_findings(environment)      # what to change before anything is bought, errors first
cost(environment).hourly_usd               # from dated price tables; None where a price is unknown
"""

from datetime import date

from inferstack.environment import Environment, InvalidEnvironment, parse_environment
from inferstack.planning import checks
from inferstack.planning.checks.memory import environment_fit
from inferstack.planning.checks.scaling import Headroom, headroom
from inferstack.planning.cost import Cost, CostLine, cost, replica_cap, throughput
from inferstack.planning.findings import SEVERITIES, Finding, Severity, from_invalid, in_order, waive
from inferstack.planning.fit import Fit
from inferstack.planning.names import NAMES
from inferstack.planning.placement import Pool, gpu_machine, pools, system_machine

__all__ = [
    "NAMES",
    "SEVERITIES",
    "Cost",
    "CostLine",
    "Finding",
    "Fit",
    "Headroom",
    "Pool",
    "Severity",
    "check",
    "cost",
    "environment_fit",
    "gpu_machine",
    "headroom",
    "in_order",
    "plan_findings",
    "pools",
    "replica_cap",
    "system_machine",
    "throughput",
    "waive",
]


def plan_findings(environment: Environment, today: date | None = None) -> list[Finding]:
    """Everything that the plan has to say about an environment, errors first; waivers are applied as of `today`."""
    found = in_order(checks.run(environment))
    return in_order(waive(found, environment.waivers, today or date.today()))


def check(raw: object, source: str = "environment", today: date | None = None) -> list[Finding]:
    """As `plan_findings`, from the parsed YAML: what cannot be parsed comes as findings too."""
    try:
        environment = parse_environment(raw, source)
    except InvalidEnvironment as error:
        return in_order(from_invalid(error))
    return plan_findings(environment, today)
