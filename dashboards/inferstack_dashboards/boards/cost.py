"""Cost Tracking: what runs costs, what a million tokens costs, what the cache saves."""

from inferstack_dashboards import external as e
from inferstack_dashboards.panels import Board, Panel, Query, Row
from inferstack_dashboards.query import external, rate, ratio, selector, share, total
from inferstack_runtime import metrics as m

_HOURLY = 'sum by (environment) (llm_cost_hourly{environment=~"$environment"})'
_TOKENS_HOURLY = f"({rate(m.GENERATED_TOKENS, 'environment')} * 3600)"
_SERVED = rate(m.SERVED_TOKENS)
_CACHED = rate(m.SERVED_TOKENS, where='source!="engine"')
_WITHOUT_WORK = f"({selector(m.IN_FLIGHT)} == 0) and on (instance) {selector(m.READY)} == 1"
_IDLE = f"count by (slot) ({_WITHOUT_WORK}) or {total(m.READY, 'slot')} * 0"

COST = Board(
    "inferstack-cost",
    "Cost Tracking",
    "Dollars per hour and per million tokens, by slot; the budget; what the cache saves.",
    (
        Row(
            "Spending",
            (
                Panel(
                    "Now",
                    "Price per hour of what runs, from the environment's price table; absent where no price is known.",
                    "currencyUSD",
                    (Query(_HOURLY),),
                    "stat",
                    "prices",
                    runbooks=("BudgetExceeded",),
                ),
                Panel(
                    "Of the budget",
                    "Share of the hourly budget.",
                    "percentunit",
                    (Query(f"{_HOURLY} / on () group_left () {external(e.BUDGET)}"),),
                    "stat",
                    "prices",
                    steps=((0.8, "orange"), (1, "red")),
                    runbooks=("BudgetExceeded", "BudgetBurn"),
                ),
                Panel(
                    "A million generated tokens",
                    "Price of a million tokens at the load of now.",
                    "currencyUSD",
                    (Query(f"1e6 * {_HOURLY} / ({_TOKENS_HOURLY} > 0)"),),
                    "stat",
                    "prices",
                ),
                Panel(
                    "By slot",
                    "Price per hour of each slot's replicas; the slot without weight is the price of a quick way back.",
                    "currencyUSD",
                    (Query('sum by (slot) (llm_cost_hourly{environment=~"$environment",slot=~"$slot"})', "{{slot}}"),),
                    needs="prices",
                    stacked=True,
                    width=12,
                ),
                Panel(
                    "Budget",
                    "Price per hour against the ceiling.",
                    "currencyUSD",
                    (Query(_HOURLY, "spent"), Query(external(e.BUDGET), "budget")),
                    needs="prices",
                    width=12,
                    runbooks=("BudgetBurn",),
                ),
            ),
        ),
        Row(
            "What it is spent on",
            (
                Panel(
                    "Tokens by model",
                    "Generated tokens per second: the key by which a slot's price is shared among its models.",
                    "short",
                    (Query(rate(m.GENERATED_TOKENS, "model"), "{{model}}"),),
                    stacked=True,
                ),
                Panel(
                    "Served by the cache",
                    "Share of answer tokens that came from the cache, and so cost no engine time.",
                    "percentunit",
                    (Query(share(_CACHED, _SERVED), "saved"),),
                    most=1,
                ),
                Panel(
                    "Tokens per replica",
                    "Generated tokens per second and ready replica: what batching makes of a replica's price.",
                    "short",
                    (Query(ratio(rate(m.GENERATED_TOKENS, "slot"), total(m.READY, "slot")), "{{slot}}"),),
                ),
                Panel(
                    "Idle replicas",
                    "Ready replicas that have no request in flight.",
                    "short",
                    (
                        Query(
                            _IDLE,
                            "{{slot}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
    ("environment", "slot", "model", "tier"),
)
