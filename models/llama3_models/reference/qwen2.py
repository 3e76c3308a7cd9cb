"""A layer of Qwen2: like Llama's, but the two halves of a head rotate, and q, k and v have biases."""

from llama3_models.reference.layers import Angles, Floats, Layer, causal_attention, rotate_halves


def layer(w: Layer, x: Floats, angles: Angles) -> Floats:
    """Apply the layer, [n, hidden] -> [n, hidden]."""
    a = w.norm("attn_norm", x)
    q = rotate_halves(w.heads("attn_q", a), angles)  # [heads, n, head_dim]
    k = rotate_halves(w.heads("attn_k", a), angles)  # [kv_heads, n, head_dim]
    v = w.heads("attn_v", a)
    x = x + w.linear("attn_output", causal_attention(q, k, v))
    return x + w.swiglu(w.norm("ffn_norm", x))
