"""Request Analytics: who asks what, how long it is, and how it ends."""

from inferstack_dashboards.panels import Board, Panel, Query, Row
from inferstack_dashboards.query import or_zero, quantile, rate, share_of_all, total
from inferstack_runtime import metrics as m

REQUEST_ANALYTICS = Board(
    "inferstack-requests",
    "Request Analytics",
    "Routes, tiers, lengths and ends of requests, the cache, and what clients saw. Tenants are never a label; their tier is.",
    (
        Row(
            "Requests",
            (
                Panel("By route", "Requests answered per second.", "reqps", (Query(rate(m.REQUESTS, "route"), "{{route}}"),), stacked=True),
                Panel(
                    "By tier of the key",
                    "Requests answered per second by tier of the API key.",
                    "reqps",
                    (Query(rate(m.REQUESTS, "tier"), "{{tier}}"),),
                    stacked=True,
                ),
                Panel(
                    "Refused",
                    "Requests refused per second before generation, by reason.",
                    "reqps",
                    (Query(rate(m.REJECTED, "reason"), "{{reason}}"),),
                    runbooks=("QueueLong", "AccessKeysMissing"),
                ),
                Panel(
                    "Duration, p95",
                    "95th percentile of the whole duration by route.",
                    "s",
                    (Query(quantile(0.95, m.REQUEST_SECONDS, "route"), "{{route}}"),),
                    runbooks=("ResponseSlow",),
                ),
                Panel(
                    "Streams and requests",
                    "Answers being streamed and requests being answered.",
                    "short",
                    (Query(total(m.OPEN_STREAMS), "streams"), Query(total(m.IN_FLIGHT), "in flight")),
                ),
                Panel(
                    "Clients that left",
                    "Clients per second that closed before their answer ended.",
                    "ops",
                    (Query(rate(m.DISCONNECTS, "slot"), "{{slot}}"),),
                ),
            ),
        ),
        Row(
            "Lengths",
            (
                Panel(
                    "Prompt tokens",
                    "Requests per bucket of prompt length.",
                    "short",
                    (Query(rate(m.PROMPT_LENGTH, "le", suffix="bucket"), "{{le}}"),),
                    "heatmap",
                    width=12,
                ),
                Panel(
                    "Answer tokens",
                    "Requests per bucket of answer length.",
                    "short",
                    (Query(rate(m.ANSWER_LENGTH, "le", suffix="bucket"), "{{le}}"),),
                    "heatmap",
                    width=12,
                ),
            ),
        ),
        Row(
            "Cache",
            (
                Panel(
                    "Look-ups",
                    "Look-ups of the response cache per second by tier and result.",
                    "ops",
                    (Query(rate(m.CACHE_LOOKUPS, "tier", "result"), "{{tier}} {{result}}"),),
                ),
                Panel(
                    "Answer tokens by source",
                    "Share of answer tokens from the engine and from each cache tier.",
                    "percentunit",
                    (Query(share_of_all(rate(m.SERVED_TOKENS, "source"), rate(m.SERVED_TOKENS)), "{{source}}"),),
                    most=1,
                ),
                Panel(
                    "False hits",
                    "Semantic hits per second that were checked, and that were found false.",
                    "ops",
                    (Query(or_zero(rate(m.CACHE_VERIFIED)), "checked"), Query(or_zero(rate(m.CACHE_FALSE_HITS)), "false")),
                    runbooks=("CacheFalseHits",),
                ),
                Panel(
                    "Cache held in the processes",
                    "Bytes of each cache tier in memory.",
                    "bytes",
                    (Query(total(m.CACHE_BYTES, "tier"), "{{tier}}"),),
                ),
                Panel(
                    "Shared store",
                    "1 while the shared cache server answers in time.",
                    "short",
                    (Query(total(m.SHARED_UP, "slot", fold="min"), "{{slot}}"),),
                    most=1,
                    runbooks=("SharedStoreDown",),
                ),
                Panel(
                    "Shared store errors",
                    "Failed or slow calls per second of the shared cache server, by use.",
                    "ops",
                    (Query(or_zero(rate(m.SHARED_ERRORS, "use")), "{{use}}"),),
                    runbooks=("SharedStoreDown",),
                ),
            ),
        ),
    ),
)
