"""The Responses API: its items, events, objects and what is kept of them."""
