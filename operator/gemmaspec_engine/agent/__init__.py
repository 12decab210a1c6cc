"""Live K: a scheduler class for vLLM that changes K between two steps, and the HTTP port to steer it.

``vllm serve … --scheduler-cls gemmaspec_engine.agent.scheduler.LiveScheduler``. Only ``scheduler`` imports vLLM; the
operator may import ``grid`` and ``settings``, which import nothing but the standard library.
"""
