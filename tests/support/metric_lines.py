"""The metrics that llama3-run prints, by the names and in the order of its predecessor, and what it adds."""

METRIC_LABELS = [
    "Prompt size",
    "Output size",
    "Startup time",
    "Warmup time",
    "Time to first token",
    "Tokenization time",
    "Prompt eval throughput (context-encoding)",
    "Eval throughput (token-generation)",
    "Maximum memory",
    "KV cache memory",
]
