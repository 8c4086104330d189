"""What torch hears of `inspect` while it is loaded is what it would have heard."""

from __future__ import annotations

import inspect
import platform
import sys
import threading
from pathlib import Path

import pytest
import torch

from hpc_sla.kernels.loading import few_looks_at_files, frame_info_without_text
from tests.launch import launch_python


def here() -> object:
    return sys._getframe(1)


def test_the_short_answer_is_the_long_one_without_its_text() -> None:
    frame = here()
    assert frame_info_without_text(frame)[:5] == inspect.getframeinfo(frame, context=0)[:5]


def test_others_are_answered_as_ever() -> None:
    with few_looks_at_files():
        frame = here()
        lines = inspect.getframeinfo(frame).code_context
        assert lines is not None and "getframeinfo" in lines[0]
        assert inspect.getmodule(few_looks_at_files) is sys.modules["hpc_sla.kernels.loading"]
        assert inspect.getmodule(torch.add) is inspect.getmodule(torch.add)


def test_all_is_as_it_was_afterwards() -> None:
    functions = inspect.getframeinfo, inspect.getmodule
    about = dict(vars(platform.uname()))
    with pytest.raises(KeyError), few_looks_at_files():
        assert inspect.getframeinfo is not functions[0]
        raise KeyError
    assert (inspect.getframeinfo, inspect.getmodule) == functions
    assert vars(platform.uname()) == about


def test_where_it_is_within_itself() -> None:
    function = inspect.getframeinfo
    with few_looks_at_files(), few_looks_at_files():
        pass
    assert inspect.getframeinfo is function


def test_of_threads_that_overlap_the_last_puts_all_back() -> None:
    """The first to come is the first to go."""
    functions = inspect.getframeinfo, inspect.getmodule
    about = dict(vars(platform.uname()))
    inside, leave, left = (threading.Event() for _ in range(3))

    def first() -> None:
        with few_looks_at_files():
            inside.set()
            assert leave.wait(60)
        left.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(60)
    with few_looks_at_files():
        leave.set()
        assert left.wait(60)
        # What this one is still to have.
        assert inspect.getframeinfo is not functions[0]
        assert "processor" in vars(platform.uname())
    thread.join(60)
    assert (inspect.getframeinfo, inspect.getmodule) == functions
    assert vars(platform.uname()) == about


def test_torch_is_told_of_the_line() -> None:
    def source() -> str:
        return torch._library.utils.get_source(2)

    with few_looks_at_files():
        quick, line = source(), here_line()
    assert quick == f"{__file__}:{line}"
    assert source().rpartition(":")[0] == __file__


def here_line() -> int:
    return sys._getframe(1).f_lineno


REGISTERS = """
import {first}
import hpc_sla.kernels.csr_operator, torch
fake = torch._library.simple_registry.singleton.find("hpc_sla::csr_matmul_out").fake_impl
print(fake.kernel.source)
"""


@pytest.mark.parametrize("first", ["torch", "hpc_sla"])
def test_our_operator_says_where_it_is(tmp_path: Path, first: str) -> None:
    done = launch_python(0, "-c", REGISTERS.format(first=first), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path, _, line = done.stdout.strip().rpartition(":")
    assert path.endswith("csr_operator.py")
    with open(path) as source:
        assert "few_looks_at_files" in source.readlines()[int(line) - 2]
