"""scikit-build-core, but that a missing or too old CMake is said in a line, without a traceback."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scikit_build_core import build
from scikit_build_core.errors import CMakeNotFoundError
from scikit_build_core.program_search import get_cmake_program, get_cmake_programs


def found_cmake() -> str:
    """Return what was looked at: the CMake that is named, or all there are."""
    logging.disable()  # it has said what it thinks of each
    named = os.environ.get("CMAKE_EXECUTABLE")
    programs = [get_cmake_program(Path(named))] if named else get_cmake_programs()
    found = [f"{version or 'one that does not run'} ({path})" for path, version in programs]
    return ", ".join(found) or "none"


def in_a_line(hook: Callable[..., str]) -> Callable[..., str]:
    """Return a hook of scikit-build-core that says in a line which CMake it lacks."""

    @functools.wraps(hook)
    def wrapped(*arguments: Any, **options: Any) -> str:
        try:
            return hook(*arguments, **options)
        except CMakeNotFoundError as error:
            sys.exit(
                f"gptoss: {error}; found {found_cmake()}: pip install 'cmake>=3.20', or leave out "
                "--no-build-isolation, and pip brings its own"
            )

    return wrapped


build_editable = in_a_line(build.build_editable)
build_sdist = build.build_sdist
build_wheel = in_a_line(build.build_wheel)
get_requires_for_build_editable = build.get_requires_for_build_editable
get_requires_for_build_sdist = build.get_requires_for_build_sdist
get_requires_for_build_wheel = build.get_requires_for_build_wheel
prepare_metadata_for_build_editable = in_a_line(build.prepare_metadata_for_build_editable)
prepare_metadata_for_build_wheel = in_a_line(build.prepare_metadata_for_build_wheel)
