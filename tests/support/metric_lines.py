"""The metrics that llama3-run prints: those of its predecessor, with the same names and order, then its own."""

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
