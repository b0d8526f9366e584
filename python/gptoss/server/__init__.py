"""The HTTP server: OpenAI's API on a loaded model; the extra `gptoss-native[server]`."""

from .app import app, make_app
from .service import Service
from .settings import ServerSettings

__all__ = ["ServerSettings", "Service", "app", "make_app"]
