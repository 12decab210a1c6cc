"""Entry point ``vllm.general_plugins``: loaded in every process of the engine, before the model is.

The entry point comes by ``gemmaspec_engine.dist-info/entry_points.txt`` beside the package. An exception in a
plug-in would end vLLM's API server, so there is none.
"""

from __future__ import annotations

import logging

__all__ = ["ENTRY_POINTS", "METADATA", "register"]

METADATA = "Metadata-Version: 2.1\nName: gemmaspec-engine\nVersion: 1\n"
ENTRY_POINTS = "[vllm.general_plugins]\ngemmaspec = gemmaspec_engine.agent.plugin:register\n"
log = logging.getLogger("vllm.gemmaspec")


def register() -> None:
    """Applies what the matrix marks for this vLLM; nothing for most versions."""
    try:
        import vllm

        from gemmaspec_engine.agent import drafter

        done = drafter.apply(vllm.__version__)
    except Exception:
        log.exception("gemmaspec agent: plug-in: vLLM stays as it is")
        return
    if done:
        log.info("gemmaspec agent: vLLM %s mended: %s", vllm.__version__, ", ".join(done))
