"""Model Performance: what one model does with the time and memory it is given."""

from inferstack_dashboards.panels import Board, Panel, Query, Row
from inferstack_dashboards.query import mean, quantile, rate, ratio, selector, total
from inferstack_runtime import metrics as m

_STEP = f"({rate(m.STEP_COMPUTE_SECONDS)} + {rate(m.STEP_HOST_SECONDS)})"

MODELS = Board(
    "inferstack-models",
    "Model Performance",
    "Speed, batching, memory and life of each model.",
    (
        Row(
            "Speed",
            (
                Panel(
                    "Time to first token, p95",
                    "95th percentile by model; answers from the cache are not counted.",
                    "s",
                    (Query(quantile(0.95, m.TIME_TO_FIRST_TOKEN, "model"), "{{model}}"),),
                    runbooks=("FirstTokenBudgetBurn",),
                ),
                Panel(
                    "Time between tokens, p95",
                    "95th percentile of the time between two tokens of one answer.",
                    "s",
                    (Query(quantile(0.95, m.INTER_TOKEN, "model"), "{{model}}"),),
                ),
                Panel(
                    "Generated tokens",
                    "Tokens per second of all replicas.",
                    "short",
                    (Query(rate(m.GENERATED_TOKENS, "model"), "{{model}}"),),
                ),
                Panel(
                    "Time to first token",
                    "Requests per bucket.",
                    "s",
                    (Query(rate(m.TIME_TO_FIRST_TOKEN, "le", suffix="bucket"), "{{le}}"),),
                    "heatmap",
                    width=12,
                ),
                Panel(
                    "Time between tokens",
                    "Tokens per bucket.",
                    "s",
                    (Query(rate(m.INTER_TOKEN, "le", suffix="bucket"), "{{le}}"),),
                    "heatmap",
                    width=12,
                ),
            ),
        ),
        Row(
            "Engine",
            (
                Panel(
                    "Batch size", "Mean number of sequences in an engine step.", "short", (Query(mean(m.BATCH_SIZE, "model"), "{{model}}"),)
                ),
                Panel(
                    "Time outside the model",
                    "Share of the steps' time that is not the model's arithmetic.",
                    "percentunit",
                    (Query(ratio(rate(m.STEP_HOST_SECONDS), _STEP), "host share"),),
                    most=1,
                ),
                Panel(
                    "Steps", "Engine steps per second.", "ops", (Query(rate(m.STEPS, "model"), "{{model}}"),), runbooks=("QueueStalled",)
                ),
                Panel(
                    "KV cache",
                    "KV cache in use, and its upper bound.",
                    "bytes",
                    (Query(total(m.KV_USED, "model"), "used {{model}}"), Query(total(m.KV_SIZE, "model"), "bound {{model}}")),
                    runbooks=("KvCacheSaturated",),
                ),
                Panel(
                    "Prompt tokens reused",
                    "Share of prompt tokens whose keys and values came from an earlier request.",
                    "percentunit",
                    (Query(ratio(rate(m.PREFIX_HIT_TOKENS, "model"), rate(m.PROMPT_TOKENS, "model")), "{{model}}"),),
                    most=1,
                ),
                Panel(
                    "Preemptions",
                    "Sequences per second set back to make room in the KV cache.",
                    "ops",
                    (Query(rate(m.PREEMPTIONS, "model"), "{{model}}"),),
                    runbooks=("KvCacheSaturated",),
                ),
            ),
        ),
        Row(
            "Life",
            (
                Panel(
                    "Weights", "Memory of the loaded weights.", "bytes", (Query(total(m.WEIGHT_BYTES, "model", fold="max"), "{{model}}"),)
                ),
                Panel(
                    "Load time, p95",
                    "95th percentile of the time to load and warm up a model since the processes started.",
                    "s",
                    (Query(f"histogram_quantile(0.95, sum by (le, model) ({selector(m.MODEL_LOAD_SECONDS, 'bucket')}))", "{{model}}"),),
                ),
                Panel(
                    "Sequences by end", "Sequences ended per second, by reason.", "ops", (Query(rate(m.FINISHED, "reason"), "{{reason}}"),)
                ),
            ),
        ),
    ),
)
