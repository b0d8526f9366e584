"""Exceptions that gptoss raises on top of ValueError, TypeError and MemoryError."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used: the message names the file, the tensor or field,
    what was expected and what was found."""


class ContextLengthError(ValueError):
    """A conversation leaves no room in the context."""


class BackendError(RuntimeError):
    """A device or its driver failed, or the requested backend is not available."""
