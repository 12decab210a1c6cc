"""A pretended engine image: packages ``vllm``, ``transformers`` and ``uvloop`` with just what preflight asks of them.

Only for tests of preflight's own flow; what real vLLM answers is tested with real vLLM.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write"]

_FILES = {
    "uvloop/__init__.py": "def run(coroutine): coroutine.close(); print('serving')\n",
    "transformers/__init__.py": "__version__ = '5.19.0'\n",
    "transformers/models/__init__.py": "",
    "transformers/models/auto/__init__.py": "",
    "transformers/models/auto/configuration_auto.py": (
        "CONFIG_MAPPING_NAMES = {'gemma4': 'A', 'gemma4_assistant': 'B'}\n"
    ),
    "transformers-5.19.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: transformers\nVersion: 5.19.0\n",
    "vllm/__init__.py": "__version__ = '0.32.0'\n",
    "vllm/config.py": (
        "from dataclasses import dataclass\n@dataclass\nclass SpeculativeConfig:\n"
        "    method: str = ''\n    model: str = ''\n    num_speculative_tokens: int = 0\n"
        "    num_speculative_tokens_per_batch_size: list = None\n"
    ),
    "vllm/transformers_utils/__init__.py": "",
    "vllm/transformers_utils/config.py": "_CONFIG_REGISTRY = {'fake_type': 'C'}\n",
    "vllm/entrypoints/__init__.py": "",
    "vllm/entrypoints/openai/__init__.py": "",
    "vllm/entrypoints/openai/api_server.py": (
        "import argparse, json, uvloop\n"
        "async def run_server(args): pass\n"
        "if __name__ == '__main__':\n"
        "    parser = argparse.ArgumentParser()\n"
        "    for name in ('--model', '--port', '--scheduler-cls', '--kv-cache-dtype', '--middleware'):\n"
        "        parser.add_argument(name)\n"
        "    parser.add_argument('--speculative-config', type=json.loads)\n"
        "    parser.add_argument('--gpu-memory-utilization', type=float, default=0.92)\n"
        "    args = parser.parse_args()\n"
        "    uvloop.run(run_server(args))\n"
    ),
    "vllm/engine/__init__.py": "",
    "vllm/engine/arg_utils.py": (
        "from types import SimpleNamespace as N\n"
        "class AsyncEngineArgs:\n"
        "    @classmethod\n    def from_cli_args(cls, args): return cls()\n"
        "    def create_engine_config(self):\n"
        "        return N(model_config=N(max_model_len=256, dtype='torch.float32'),\n"
        "                 scheduler_config=N(max_num_seqs=4, max_num_batched_tokens=512),\n"
        "                 cache_config=N(cache_dtype='auto', kv_cache_memory_bytes=1 << 20))\n"
    ),
    "vllm/v1/__init__.py": "",
    "vllm/v1/core/__init__.py": "",
    "vllm/v1/core/sched/__init__.py": "",
    "vllm/v1/core/sched/interface.py": (
        "class SchedulerInterface:\n    def schedule(self): ...\n    def finish(self, ids, status): ...\n"
    ),
    "plugin.py": (
        "from vllm.v1.core.sched.interface import SchedulerInterface\n"
        "class Good(SchedulerInterface):\n    def schedule(self): ...\n    def finish(self, *args, **more): ...\n"
        "class Narrow(SchedulerInterface):\n    def finish(self, ids): ...\n"
        "class Greedy(SchedulerInterface):\n    def schedule(self, budget): ...\n"
        "class Stranger:\n    pass\n"
    ),
}


def write(root: Path) -> Path:
    """Write the packages below ``root``."""
    for name, content in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root
