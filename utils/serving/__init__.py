"""Finished runs in use: the demo page, Spaces, and models exported for programs without torch."""
