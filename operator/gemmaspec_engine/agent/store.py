"""What the agent has learnt, on the pod's state volume: it survives a restart of the container."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from gemmaspec_engine.agent.host import Agent

__all__ = ["FILE", "keep", "restore", "save"]

FILE = "agent.json"
EVERY_SECONDS = 30.0
log = logging.getLogger("vllm.gemmaspec")


def restore(agent: Agent) -> str:
    """Takes over the saved settings and state; says in one line what came of it.

    Raises:
        Exception: the saved file is damaged, or not for this engine. The agent is as it was.
    """
    path = Path(agent.config.state_dir) / FILE
    if not agent.config.state_dir or not path.exists():
        return "nothing saved"
    state: dict[str, Any] = json.loads(path.read_text())
    saved = agent.controller.saved_settings(state)
    agent.controller.load_state(state)
    agent.controller.apply(saved)
    agent.restored = "volume" if state["policies"] else ""
    return f"mode {saved.mode}, learnt by {', '.join(state['policies']) or 'none'}"


def save(agent: Agent) -> None:
    """Writes settings and state as one file, replaced as a whole.

    Raises:
        Exception: the disk's errors, or a policy's.
    """
    path = Path(agent.config.state_dir) / FILE
    text = json.dumps(agent.controller.export_state())
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)


def keep(agent: Agent) -> threading.Thread | None:
    """Saves now and then, in a thread of its own, while steps are made; None without a state directory."""
    if not agent.config.state_dir:
        return None
    thread = threading.Thread(target=_run, args=(agent,), name="gemmaspec-state", daemon=True)
    thread.start()
    return thread


def _run(agent: Agent) -> None:
    seen: object = None
    said = False
    while True:
        time.sleep(EVERY_SECONDS)
        try:
            now = (agent.tally.steps, id(agent.controller.settings))
            if now != seen:
                save(agent)
                seen = now
        except Exception as error:  # noqa: BLE001  learning anew is no harm to the engine
            if not said:
                log.warning("gemmaspec agent: state is not saved: %r", error)
                said = True
