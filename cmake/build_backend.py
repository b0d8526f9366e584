"""scikit-build-core, but that a missing or too old CMake or Ninja is said in a line."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from scikit_build_core import build
from scikit_build_core.errors import CMakeNotFoundError, NotFoundError
from scikit_build_core.program_search import (
    Program,
    get_cmake_program,
    get_cmake_programs,
    get_ninja_programs,
)


def name(programs: Iterable[Program]) -> str:
    """Return versions and paths of what was found."""
    found = [f"{version or 'one that does not run'} ({path})" for path, version in programs]
    return ", ".join(found) or "none"


def explain(error: NotFoundError) -> str:
    """Say what is missing, what was found instead, and what to do."""
    logging.disable()  # the search has said what it thinks of each
    named = os.environ.get("CMAKE_EXECUTABLE")
    if isinstance(error, CMakeNotFoundError) and named:
        found = name([get_cmake_program(Path(named))])
        advice = "unset CMAKE_EXECUTABLE, which names it"
    else:
        tool, programs = "ninja", get_ninja_programs()
        if isinstance(error, CMakeNotFoundError):
            tool, programs = "cmake", get_cmake_programs()
        found = name(programs)
        advice = f"pip install -U {tool}, or leave out --no-build-isolation, and pip brings its own"
    return f"gptoss: {error}; found {found}: {advice}"


def in_a_line(hook: Callable[..., str]) -> Callable[..., str]:
    """Return a hook of scikit-build-core that says in a line which program it lacks."""

    @functools.wraps(hook)
    def wrapped(*arguments: Any, **options: Any) -> str:
        try:
            return hook(*arguments, **options)
        except NotFoundError as error:
            sys.exit(explain(error))

    return wrapped


build_editable = in_a_line(build.build_editable)
build_sdist = build.build_sdist
build_wheel = in_a_line(build.build_wheel)
get_requires_for_build_editable = build.get_requires_for_build_editable
get_requires_for_build_sdist = build.get_requires_for_build_sdist
get_requires_for_build_wheel = build.get_requires_for_build_wheel
prepare_metadata_for_build_editable = in_a_line(build.prepare_metadata_for_build_editable)
prepare_metadata_for_build_wheel = in_a_line(build.prepare_metadata_for_build_wheel)
