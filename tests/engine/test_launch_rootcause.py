"""The line that explains a dead engine is found among those that only pass it on."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemmaspec_engine.rootcause import diagnose, root_cause

LOGGED = "(EngineCore_DP0 pid=51) ERROR 05-02 23:41:24 [core.py:1136] "
PASSED_ON = """\
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1)   File "/v/engine/utils.py", line 1434, in wait_for_engine_startup
(APIServer pid=1)     raise RuntimeError(
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def engine_core(error: str) -> str:
    """A failed start as vLLM ≥ 0.19 prints it: the log record, multiprocessing's own traceback, the API server."""
    logged = f"EngineCore failed to start.\nTraceback (most recent call last):\n  File x, line 1\n{error}"
    plain = f"Process EngineCore_DP0:\nTraceback (most recent call last):\n  File x, line 1\n{error}"
    first = "".join(f"{LOGGED}{line}\n" for line in logged.split("\n"))
    return first + "".join(f"(EngineCore_DP0 pid=51) {line}\n" for line in plain.split("\n")) + PASSED_ON


def reason(text: str, exit_code: int = 1, signal: int = 0, oom_kills: int = 0) -> tuple[str, str]:
    found = diagnose(text.split("\n"), exit_code=exit_code, signal=signal, oom_kills=oom_kills)
    assert found.remedy
    return found.reason, found.message


FREE = (
    "ValueError: Free memory on device cuda:0 (101.4/121.7 GiB) on startup is less than desired GPU memory "
    "utilization (0.9, 109.5 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FREE, "FreeMemoryTooLow"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "OutOfMemory"),
        ("ValueError: No available memory for the cache blocks. Try increasing it.", "KVCacheTooSmall"),
        (
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied (3840x5632 and 1024x1024)",
            "WeightsMismatch",
        ),
        ("AssertionError", "EngineFailed"),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "DeviceFault"),
        ("ModuleNotFoundError: No module named 'gemmaspec_engine.agent'", "ImportFailed"),
    ],
)
def test_the_engine_cores_own_error_wins(error: str, expected: str) -> None:
    assert reason(engine_core(error)) == (expected, error)


def test_a_workers_error_comes_before_what_the_core_made_of_it() -> None:
    worker = "(Worker_TP0 pid=60) ERROR 05-02 23:41:23 [multiproc_executor.py:870] "
    text = f"{worker}WorkerProc failed to start.\n{worker}Traceback (most recent call last):\n{worker}{FREE}\n"
    text += engine_core(
        "Exception: WorkerProc initialization failed due to an exception in a background process. "
        "See stack trace for root cause."
    )
    assert reason(text) == ("FreeMemoryTooLow", FREE)


def test_lines_of_several_processes_may_mix() -> None:
    core, api = engine_core(FREE).rstrip("\n").split("\n"), PASSED_ON.split("\n")
    mixed = [line for pair in zip(core, api * 9, strict=False) for line in pair]
    cause = root_cause(mixed)
    assert cause is not None
    assert (cause.line, cause.process) == (FREE, "EngineCore_DP0")


def test_the_last_exception_of_a_chain_speaks_for_it() -> None:
    text = """\
Traceback (most recent call last):
requests.exceptions.HTTPError: 404 Client Error: Not Found for url: http://hub/x

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
OSError: x/y is not a local folder and is not a valid model identifier listed on 'https://hub/models'
If this is a private repository, make sure to pass a token
"""
    name, message = reason(text)
    assert name == "ModelNotFound"
    assert message.startswith("OSError: x/y is not a local folder")


def test_an_argument_error_is_argparses_line() -> None:
    text = "usage: api_server.py [-h]\n  [--port PORT]\napi_server.py: error: unrecognized arguments: --no-such\n"
    assert reason(text, exit_code=2) == ("BadArgument", "api_server.py: unrecognized arguments: --no-such")


def test_a_pydantic_error_takes_its_finding_along() -> None:
    text = """\
(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
(APIServer pid=1)   Value error, User-specified max_model_len (999) is greater than the derived one (512)
(APIServer pid=1)     For further information visit https://errors.pydantic.dev/2.12/v/value_error
"""
    name, message = reason(text)
    assert name == "BadConfiguration"
    assert "max_model_len (999)" in message


def test_a_taken_port() -> None:
    text = "Traceback (most recent call last):\n  sock.bind(addr)\nOSError: [Errno 98] Address already in use\n"
    assert reason(text)[0] == "PortInUse"


def test_kills_by_the_container_s_memory_limit() -> None:
    name, message = reason(PASSED_ON.replace("{}", "{'EngineCore_DP0': -9}"), oom_kills=1)
    assert name == "OOMKilled"
    assert "EngineCore_DP0" in message


def test_kills_by_the_host_leave_no_trace_in_the_container() -> None:
    assert reason(PASSED_ON.replace("{}", "{'EngineCore_DP0': -9}"))[0] == "OOMKilled"
    assert reason("all fine\n", exit_code=0, signal=9)[0] == "OOMKilled"


def test_other_signals() -> None:
    name, message = reason("", exit_code=0, signal=11)
    assert name == "EngineKilled"
    assert "SIGSEGV" in message
    text = "Fatal Python error: Segmentation fault\n\nThread 0x7f:\n"
    assert reason(text, exit_code=0, signal=11) == ("EngineFailed", "Fatal Python error: Segmentation fault")


def test_what_happens_at_shutdown_is_no_cause() -> None:
    noise = "Exception ignored in: <function f>\nTraceback (most recent call last):\nAttributeError: 'NoneType'\n"
    assert reason(engine_core(FREE) + noise) == ("FreeMemoryTooLow", FREE)
    interrupted = (
        "Traceback (most recent call last):\nKeyError: 'a'\nTraceback (most recent call last):\nKeyboardInterrupt\n"
    )
    assert reason(interrupted)[1] == "KeyError: 'a'"


def test_colours_and_progress_bars_do_not_hide_it() -> None:
    text = "\x1b[31mLoading:  10%|#\rLoading: 20%|##\rValueError: broken\x1b[0m\n"
    assert reason(text) == ("EngineFailed", "ValueError: broken")


def test_only_a_logged_error() -> None:
    assert reason("ERROR 05-02 23:41:24 [x.py:1] something went wrong\nINFO 05-02 23:41:25 [x.py:1] bye\n") == (
        "EngineFailed",
        "something went wrong",
    )


def test_nothing_said() -> None:
    assert root_cause([]) is None
    assert reason("", exit_code=3) == ("EngineFailed", "vLLM exited with code 3 without an error line")
    assert reason("INFO 05-02 23:41:25 [x.py:1] bye", exit_code=0)[0] == "EngineExited"


def test_prose_that_mentions_errors_is_no_error() -> None:
    assert root_cause(["INFO 05-02 23:41:25 [x.py:1] ValueError counts: 0", "loading Error.safetensors: done"]) is None


DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize(
    ("sample", "expected", "said"),
    [
        ("bad-argument", "BadArgument", "unrecognized arguments: --max-model-length=1024"),
        ("bad-value", "BadArgument", "argument --max-model-len: invalid"),
        ("model-missing", "ModelNotFound", "/models/no-such-model"),
        ("drafter-missing", "ModelNotFound", "no-such-assistant"),
        ("drafter-shape", "WeightsMismatch", "parameter.py:150 in load_column_parallel_weight: assert self.data.shape"),
        ("kv-cache-too-large", "KVCacheTooLarge", "requested memory for kv (4096.0 GiB)"),
        ("kv-cache-too-small", "KVCacheTooSmall", "No available memory for the cache blocks"),
        ("memory-not-free", "FreeMemoryTooLow", "(0.99, 17.78 GiB)"),
        ("weights-missing", "ModelNotFound", "Cannot find any model weights"),
        ("weights-shape", "WeightsMismatch", "exceeds dimension size (256)"),
        ("scheduler-missing", "ImportFailed", "No module named 'no'"),
        ("length-too-long", "BadConfiguration", "max_model_len (99999)"),
        ("core-killed-starting", "EngineKilled", "without a word"),
        ("core-killed-serving", "EngineKilled", "without a word"),
    ],
)
def test_what_real_vllm_printed(sample: str, expected: str, said: str) -> None:
    """Ends of the output of vLLM 0.32 on a CPU, each after one thing was made wrong."""
    name, message = reason((DATA / f"engine-stderr-{sample}.txt").read_text())
    assert name == expected
    assert said in message
    assert "input_value" not in message


def test_every_sample_is_tested() -> None:
    mark = next(mark for mark in test_what_real_vllm_printed.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == {
        path.name.removeprefix("engine-stderr-").removesuffix(".txt") for path in DATA.glob("engine-stderr-*.txt")
    }
