"""The HTTP server: OpenAI's API on a loaded model; the extra `gptoss-native[server]`."""

from .app import app
from .settings import ServerSettings

__all__ = ["ServerSettings", "app"]
