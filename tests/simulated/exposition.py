"""Expositions in the form that vLLM writes, from chosen counters. Real ones are in tests/data."""

from __future__ import annotations

from collections.abc import Sequence

_ENGINE = 'engine="0",model_name="tiny"'


def counters(values: dict[str, float]) -> list[str]:
    """One counter family for each name without its ``_total``."""
    lines = []
    for name, value in values.items():
        family = f"vllm:{name}"
        lines += [f"# HELP {family}_total Counter.", f"# TYPE {family}_total counter"]
        lines += [f"{family}_total{{{_ENGINE}}} {value}", f"{family}_created{{{_ENGINE}}} 1.76e+09"]
    return lines


def exposition(generated: float = 1000.0, positions: Sequence[float] = (90.0, 60.0), drafts: float = 100.0) -> str:
    """What an engine with ``len(positions)`` draft tokens a step shows."""
    lines = ["# HELP python_info Python platform information", "# TYPE python_info gauge", "python_info 1.0"]
    lines += ["# TYPE vllm:num_requests_running gauge", f"vllm:num_requests_running{{{_ENGINE}}} 3.0"]
    lines += counters({"generation_tokens": generated})
    lines += ["# TYPE vllm:request_success counter"]
    for reason, count in (("stop", 4.0), ("length", 3.0), ("abort", 0.0)):
        lines.append(f'vllm:request_success_total{{{_ENGINE},finished_reason="{reason}"}} {count}')
    lines += ["# TYPE vllm:inter_token_latency_seconds histogram"]
    lines += [f'vllm:inter_token_latency_seconds_bucket{{{_ENGINE},le="+Inf"}} 200.0']
    lines += [f"vllm:inter_token_latency_seconds_count{{{_ENGINE}}} 200.0"]
    lines += [f"vllm:inter_token_latency_seconds_sum{{{_ENGINE}}} 4.0"]
    if positions:
        drafted = {"num_drafts": drafts, "num_draft_tokens": drafts * len(positions)}
        drafted["num_accepted_tokens"] = sum(positions)
        lines += counters({f"spec_decode_{name}": value for name, value in drafted.items()})
        name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
        lines += [f"# TYPE {name} counter"]
        lines += [f'{name}{{{_ENGINE},position="{i}"}} {value}' for i, value in enumerate(positions)]
    return "\n".join(lines) + "\n"
