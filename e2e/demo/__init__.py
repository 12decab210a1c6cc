"""The main job on real parts, told step by step: ``python -m demo`` (the verb is ``make demo``).

The parts that watch a resource, install the operator and keep what a failure leaves are used by the
end-to-end tests as well.
"""
