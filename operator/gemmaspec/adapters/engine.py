"""The engines' HTTP ports: scraping vLLM's own metrics."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from gemmaspec.core.agent import Report, Wanted
from gemmaspec.core.observation import Sample, Wish

SCRAPE_SECONDS = 4.0
# One short answer of a large model on a slow box.
ANSWER_SECONDS = 120.0
# An engine's /metrics is some 100 KB; more than this is not an engine.
MOST_BYTES = 4 * 1024 * 1024
# A benchmark asks for a minute and renews it.
MOST_HOLD_SECONDS = 120.0
# The schema takes K up to 32; a larger position is no engine's.
MOST_POSITIONS = 256

# vLLM's names, the same from 0.19.1 to 0.33.0.
_DRAFTS = "vllm:spec_decode_num_drafts_total"
_DRAFT_TOKENS = "vllm:spec_decode_num_draft_tokens_total"
_ACCEPTED = "vllm:spec_decode_num_accepted_tokens_total"
_PER_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
_GENERATED = "vllm:generation_tokens_total"
_FINISHED = "vllm:request_success_total"
_STEP_SUM = "vllm:inter_token_latency_seconds_sum"
_STEP_COUNT = "vllm:inter_token_latency_seconds_count"
_RUNNING = "vllm:num_requests_running"
_WANTED = (_DRAFTS, _DRAFT_TOKENS, _ACCEPTED, _PER_POSITION, _GENERATED, _FINISHED, _STEP_SUM, _STEP_COUNT, _RUNNING)
# Only the lines that are read are parsed: all the histograms of an engine would take 50 times as long.
_LINES = re.compile(rf"\n((?:{'|'.join(map(re.escape, _WANTED))})[^\n]*)")


class ScrapeError(Exception):
    """An engine could not be scraped: missing data, which is not bad data."""


class Refused(ScrapeError):
    """An agent refuses what it was given, and would again."""


@dataclass(frozen=True, slots=True)
class Told:
    """What an engine told, and a mark of the text: an idle engine repeats itself, and is not parsed again."""

    sample: Sample
    mark: int


def parse(text: str, now: float) -> Sample:
    """Read one exposition. Raises ScrapeError where it is none, is cut off, or has not what every vLLM exports."""
    return read(selected(text), now)


def selected(text: str) -> str:
    """The lines that are read. Raises ScrapeError for a text that is cut off."""
    if not text.endswith("\n"):
        raise ScrapeError("the exposition does not end with a line: it is cut off, or none")
    return "\n".join(_LINES.findall(f"\n{text}")) + "\n"


def read(lines: str, now: float) -> Sample:
    """Counters from the lines that :func:`selected` gives. Raises ScrapeError like :func:`parse`."""
    totals: dict[str, float] = {}
    positions: dict[int, float] = {}
    try:
        for sample in (sample for family in text_string_to_metric_families(lines) for sample in family.samples):
            if sample.name == _PER_POSITION:
                position = int(sample.labels["position"])
                if not 0 <= position < MOST_POSITIONS:
                    raise ScrapeError(f"position {position} is none that a drafter has")
                positions[position] = positions.get(position, 0.0) + sample.value
            else:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    except (ValueError, KeyError, IndexError) as error:  # what the parser raises for lines that are none
        raise ScrapeError(f"no Prometheus exposition: {error}") from error
    if _GENERATED not in totals:
        raise ScrapeError(f"the exposition lacks {_GENERATED}: not vLLM, or not ready")
    if any(not math.isfinite(value) or value < 0 for value in (*totals.values(), *positions.values())):
        raise ScrapeError("a counter is negative or not a number")
    drafting = [name in totals for name in (_DRAFTS, _DRAFT_TOKENS, _ACCEPTED)]
    if any(drafting) != all(drafting) or any(drafting) != bool(positions):
        raise ScrapeError("the exposition has some of the speculation counters and lacks others: it is cut off")
    return Sample(
        time=now,
        drafts=totals.get(_DRAFTS, 0.0),
        draft_tokens=totals.get(_DRAFT_TOKENS, 0.0),
        accepted_tokens=totals.get(_ACCEPTED, 0.0),
        accepted_per_position=tuple(positions.get(i, 0.0) for i in range(max(positions, default=-1) + 1)),
        generation_tokens=totals[_GENERATED],
        requests_finished=totals.get(_FINISHED, 0.0),
        step_seconds_sum=totals.get(_STEP_SUM, 0.0),
        step_seconds_count=totals.get(_STEP_COUNT, 0.0),
        running=totals.get(_RUNNING, 0.0),
    )


class Engines:
    """HTTP client to the engines. Every request has a deadline."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close connections."""
        if self._session:
            await self._session.close()

    async def scrape(self, ip: str, port: int, now: float, before: Told | None = None) -> Told:
        """Counters of the engine at ``ip``; before: what it told last. Raises ScrapeError."""
        text = await self._get(ip, port, "/metrics")
        lines = selected(text.decode(errors="replace"))
        mark = hash(lines)
        if before is not None and before.mark == mark:
            return Told(replace(before.sample, time=now), mark)
        return Told(read(lines, now), mark)

    async def downloaded(self, ip: str, port: int) -> float:
        """Share of the weights that the pod at ``ip`` has downloaded, 0 to 1. Raises ScrapeError."""
        try:
            told = json.loads(await self._get(ip, port, "/progress"))
            return min(1.0, max(0.0, float(told["bytesDone"]) / float(told["bytesTotal"] or 1)))
        except (ValueError, KeyError, TypeError) as error:
            raise ScrapeError(f"no progress of a download: {error}") from error

    async def waits(self, ip: str, port: int) -> str:
        """What the launcher at ``ip``, which answers while no engine does, waits for; empty where one does.

        Raises ScrapeError where nobody does.
        """
        url = f"http://{_host(ip)}:{port}/health"
        try:
            async with self._open().get(url, allow_redirects=False) as response:
                told = await _whole(response.content)
                return str(json.loads(told)["reason"]) if response.status == 503 else ""
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise ScrapeError(f"{type(error).__name__}: {error}") from error

    async def report(self, ip: str, port: int, token: str, now: float) -> Report:
        """What the agent at ``ip`` says of itself. Raises ScrapeError."""
        return parse_report(await self._get(ip, port, "/status", token), now)

    async def steer(self, ip: str, port: int, token: str, wanted: Wanted, seconds: float | None = None) -> None:
        """Give the agent its settings, for so long or to stay. Raises ScrapeError where it does not take them."""
        ends = {} if seconds is None else {"untilSeconds": round(seconds, 1)}
        await self._put(ip, port, "/k", token, json.dumps(wanted.body() | ends))

    async def state(self, ip: str, port: int, token: str) -> str:
        """What the agent has learnt, as JSON. Raises ScrapeError."""
        text = (await self._get(ip, port, "/state", token)).decode(errors="replace")
        try:
            if isinstance(json.loads(text), dict):
                return text
        except ValueError as error:
            raise ScrapeError(f"no agent's state: {error}") from error
        raise ScrapeError("no agent's state: not an object")

    async def teach(self, ip: str, port: int, token: str, state: str) -> None:
        """Give the agent what another one has learnt. Raises Refused where it can't use it, or ScrapeError."""
        await self._put(ip, port, "/state", token, state)

    async def complete(self, ip: str, port: int, token: str, body: Mapping[str, Any]) -> int:
        """Have a chat request answered; returns how many tokens that were.

        Raises Refused where the engine takes no such request, or ScrapeError.
        """
        url = f"http://{_host(ip)}:{port}/v1/chat/completions"
        limit = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        try:
            async with self._open().post(
                url, json=dict(body), headers=_bearer(token), timeout=limit, allow_redirects=False
            ) as response:
                told = await _whole(response.content)
                if 400 <= response.status < 500 and response.status not in (408, 429):
                    raise Refused(f"HTTP {response.status}: {told.decode(errors='replace')[:200]}")
                if response.status != 200:
                    raise ScrapeError(f"HTTP {response.status}")
                return int(json.loads(told)["usage"]["completion_tokens"])
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ScrapeError(f"{type(error).__name__}: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ScrapeError(f"no answer of a chat: {type(error).__name__}: {error}") from error

    async def wish(self, ip: str, port: int, now: float) -> Wish:
        """What the benchmark at ``ip`` wants, with its result where it has one. Raises ScrapeError."""
        try:
            told = json.loads(await self._get(ip, port, "/wish"))
            summary = told.get("summary")
            result = (await self._get(ip, port, "/result")).decode() if summary is not None else ""
            return Wish(
                time=now,
                number=int(told["number"]),
                k=None if told["k"] is None else int(told["k"]),
                seconds=min(float(told["seconds"]), MOST_HOLD_SECONDS),
                failure=str(told.get("failure") or "")[:1024],
                summary=None if summary is None else dict(summary),
                result=result,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ScrapeError(f"no benchmark's wish: {error}") from error

    async def _put(self, ip: str, port: int, path: str, token: str, body: str) -> None:
        url = f"http://{_host(ip)}:{port}{path}"
        headers = _bearer(token) | {"Content-Type": "application/json"}
        try:
            async with self._open().put(url, data=body.encode(), headers=headers) as response:
                if response.status != 200:
                    failure = Refused if response.status in (409, 413, 422) else ScrapeError
                    raise failure(f"HTTP {response.status}: {(await response.text())[:300]}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ScrapeError(f"{type(error).__name__}: {error}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SCRAPE_SECONDS))
        return self._session

    async def _get(self, ip: str, port: int, path: str, token: str = "") -> bytes:
        url = f"http://{_host(ip)}:{port}{path}"
        try:
            async with self._open().get(url, headers=_bearer(token), allow_redirects=False) as response:
                if response.status != 200:
                    raise ScrapeError(f"HTTP {response.status}")
                return await _whole(response.content)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ScrapeError(f"{type(error).__name__}: {error}") from error


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def parse_report(body: bytes, now: float) -> Report:
    """Read an agent's /status (docs/live-k.md). Raises ScrapeError for anything else."""
    try:
        told = json.loads(body)
        k, fallback = told["k"], told["k"].get("fallback")
        return Report(
            time=now,
            live=bool(told["live"]),
            reason=str((k if told["live"] else told).get("reason") or ""),
            k=int(k["now"]),
            settings=Wanted(str(k["mode"]), int(k["k"]), int(k["kMin"]), int(k["kMax"])),
            positions=tuple(
                (int(entry["drafted"]), int(entry["accepted"])) for entry in told["acceptance"]["positions"]
            ),
            requests=int(told["acceptance"]["requests"]),
            steps={int(key): int(entry["steps"]) for key, entry in told["steps"]["perK"].items()},
            fallback=f"{fallback['where']}: {fallback['error']}" if fallback else "",
            started_at=float(told.get("startedAt") or 0.0),
            restored=str((told.get("state") or {}).get("restored") or ""),
            recent=tuple(entry.get("recent") for entry in told["acceptance"]["positions"]),
            step_ms={int(k): float(e["stepMs"]) for k, e in told["steps"]["perK"].items() if e.get("stepMs")},
            until=now + float(k["untilSeconds"]) if k.get("untilSeconds") else None,
            graphs={str(mode): int(count) for mode, count in told["engine"]["graphs"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ScrapeError(f"no agent's status: {type(error).__name__}: {error}") from error


async def _whole(stream: aiohttp.StreamReader) -> bytes:
    """The whole body: ``read(n)`` would give what has arrived so far, which is the beginning of a long one."""
    parts: list[bytes] = []
    size = 0
    async for part in stream.iter_any():
        size += len(part)
        if size > MOST_BYTES:
            raise ScrapeError(f"more than {MOST_BYTES} bytes: not an engine")
        parts.append(part)
    return b"".join(parts)
