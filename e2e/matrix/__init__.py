"""The compatibility matrix: the agent driven against the real scheduler code of every vLLM version of `compat`.

``python -m matrix`` writes ``docs/live-k-matrix.json`` and ``.md``. A new vLLM is one line of
``gemmaspec_engine/compat.py``.
"""
