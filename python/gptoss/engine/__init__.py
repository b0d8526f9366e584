"""Requests to the compiled engine: parameters in, tokens and text out."""
