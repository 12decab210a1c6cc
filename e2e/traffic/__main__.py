"""``python -m traffic --base-url http://127.0.0.1:8000/v1 --kind code --streams 4 --seconds 60``"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import sys

from traffic.generator import Traffic

_EVERY = 2.0  # seconds between two progress lines


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="traffic", description="Load on an OpenAI-compatible engine")
    parser.add_argument("--base-url", required=True, help="with /v1")
    parser.add_argument("--kind", choices=("code", "prose", "mixed"), default="code")
    parser.add_argument("--code-share", type=float, default=0.5, help="of a mixed run, 0 to 1")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--model", help="default: the first one that the engine lists")
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="end with every call as JSON on standard output")
    return parser.parse_args()


async def _report(traffic: Traffic) -> None:
    while True:
        await asyncio.sleep(_EVERY)
        seen = traffic.summary()
        print(f"{traffic.rate():8.1f} tok/s  {seen.ok} ok  {seen.failed} failed", file=sys.stderr, flush=True)


async def _run(traffic: Traffic, seconds: float) -> None:
    report = asyncio.create_task(_report(traffic))
    try:
        await traffic.run(seconds)
    finally:
        report.cancel()


def main() -> int:
    """0 when at least one call was answered."""
    arguments = _arguments()
    share = {"code": 1.0, "prose": 0.0}.get(arguments.kind, arguments.code_share)
    traffic = Traffic(
        arguments.base_url,
        model=arguments.model,
        api_key=arguments.api_key,
        code_share=share,
        streams=arguments.streams,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
    )
    asyncio.run(_run(traffic, arguments.seconds))
    summary = traffic.summary()
    report = dataclasses.asdict(summary) | {"tokens_per_second": summary.tokens / arguments.seconds}
    if arguments.json:
        report["calls"] = [dataclasses.asdict(call) for call in traffic.calls]
    print(json.dumps(report, indent=1))
    return 0 if summary.ok else 1


if __name__ == "__main__":
    sys.exit(main())
