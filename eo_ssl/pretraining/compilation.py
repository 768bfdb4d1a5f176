"""Compiled networks: every block of a transformer and every stage of a residual network by itself, in place."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil

from torch import nn

from eo_ssl.errors import expect

BLOCKS = re.compile(r"(^|\.)(blocks|layer\d)\.\d+$")  # as timm names them, here and in decoders and predictors


def compile_blocks(network: nn.Module) -> int:
    """Have torch compile each block when it first runs, and return how many there are; weights keep their names.

    Blocks of one shape share a compilation, which takes a minute on a CPU; a whole network would take several, and one
    more for each set of patches that is left out (https://docs.pytorch.org/tutorials/recipes/regional_compilation.html).

    Raises:
        UserError: a network without blocks.
    """
    blocks = [part for name, part in network.named_modules() if BLOCKS.search(name)]
    expect(
        blocks,
        expected="blocks to compile in the networks of the method",
        got="none",
        remedy="leave out --compile",
    )
    for block in blocks:
        block.compile()
    return len(blocks)


def find_missing_compiler(*, on_cuda: bool) -> str | None:
    """What torch would need to compile for this device and does not find, or None."""
    if on_cuda:
        return None if importlib.util.find_spec("triton") else "the package triton"
    names = (os.environ.get("CXX"), "g++", "clang++")
    return None if any(name and shutil.which(name) for name in names) else "a C++ compiler (g++ or clang++)"


def require_compiler(*, on_cuda: bool) -> None:
    """Refuse to compile where torch cannot.

    Raises:
        UserError: naming what is missing.
    """
    missing = find_missing_compiler(on_cuda=on_cuda)
    expect(
        missing is None, expected=f"{missing} for --compile", got="none", remedy="install it, or leave out --compile"
    )
