"""Releases: both slots side by side, as a promotion sees them."""

from inferstack_dashboards import external as e
from inferstack_dashboards.panels import Board, Panel, Query, Row
from inferstack_dashboards.query import FAILED, external, quantile, rate, selector, share, share_of_all, total
from inferstack_runtime import metrics as m

_ERRORS = share(rate(m.REQUESTS, "slot", where=FAILED), rate(m.REQUESTS, "slot"))
_SHARE = share_of_all(rate(m.REQUESTS, "slot"), rate(m.REQUESTS))
_FALSE = total(m.CACHE_FALSE_RATIO, "slot", where='bound="low"', fold="max")
_SERVES = "environment, slot, generation, model, quantization, version"

RELEASES = Board(
    "inferstack-releases",
    "Releases",
    "The two slots side by side: what each serves, its share of the traffic, and the figures that gates compare.",
    (
        Row(
            "What serves",
            (
                Panel(
                    "Slots",
                    "What each slot serves now.",
                    "short",
                    (Query(f"count by ({_SERVES}) ({selector(m.IDENTITY)})"),),
                    "table",
                    width=12,
                ),
                Panel(
                    "Share of the traffic",
                    "Measured share of requests that each slot answered: what the weights came to.",
                    "percentunit",
                    (Query(_SHARE, "{{slot}}"),),
                    width=12,
                    stacked=True,
                    most=1,
                    runbooks=("PromotionStuck",),
                ),
            ),
        ),
        Row(
            "Promotion",
            (
                Panel(
                    "Weights",
                    "Share of the traffic that the route gives to each slot; the measured share follows it.",
                    "percentunit",
                    (Query(external(e.SLOT_WEIGHT), "{{slot}}"),),
                    needs="promotion",
                    stacked=True,
                    most=1,
                    runbooks=("PromotionStuck",),
                ),
                Panel(
                    "Phase",
                    "The phase that the promotion is in; idle when there is none.",
                    "short",
                    (Query(f"{external(e.PROMOTION_PHASE)} == 1", "{{phase}}"),),
                    needs="promotion",
                    most=1,
                    runbooks=("PromotionLong",),
                ),
                Panel(
                    "Way back",
                    "Seconds for which the previous slot stays warm.",
                    "s",
                    (Query(f"clamp_min({external(e.ROLLBACK_UNTIL)} - time(), 0)", "{{slot}}"),),
                    needs="promotion",
                ),
            ),
        ),
        Row(
            "Gates",
            (
                Panel(
                    "Errors", "Share of answers with a 5xx status.", "percentunit", (Query(_ERRORS, "{{slot}}"),), runbooks=("ErrorsHigh",)
                ),
                Panel(
                    "Time to first token, p95",
                    "95th percentile by slot.",
                    "s",
                    (Query(quantile(0.95, m.TIME_TO_FIRST_TOKEN, "slot"), "{{slot}}"),),
                    runbooks=("FirstTokenBudgetBurn",),
                ),
                Panel(
                    "Time between tokens, p95", "95th percentile by slot.", "s", (Query(quantile(0.95, m.INTER_TOKEN, "slot"), "{{slot}}"),)
                ),
                Panel(
                    "Memory",
                    "Resident memory of the slot's processes.",
                    "bytes",
                    (Query(total(m.PROCESS_MEMORY, "slot"), "{{slot}}"),),
                    runbooks=("MemoryRunningOut",),
                ),
                Panel(
                    "False cache hits",
                    "Lower bound of the share of checked semantic hits that were false.",
                    "percentunit",
                    (Query(f"{_FALSE} or {total(m.READY, 'slot')} * 0", "{{slot}}"),),
                    runbooks=("CacheFalseHits",),
                ),
                Panel("Requests", "Requests answered per second.", "reqps", (Query(rate(m.REQUESTS, "slot"), "{{slot}}"),)),
            ),
        ),
        Row(
            "Going and coming",
            (
                Panel(
                    "Ready replicas",
                    "Ready replicas of each slot, one upon the other.",
                    "short",
                    (Query(total(m.READY, "slot"), "{{slot}}"),),
                    stacked=True,
                    runbooks=("SlotWithoutEndpoints",),
                ),
                Panel(
                    "Draining replicas", "Replicas between SIGTERM and their end.", "short", (Query(total(m.DRAINING, "slot"), "{{slot}}"),)
                ),
                Panel(
                    "In flight",
                    "Requests being answered; a slot drains until this is 0.",
                    "short",
                    (Query(total(m.IN_FLIGHT, "slot"), "{{slot}}"),),
                ),
            ),
        ),
    ),
)
