"""A model of this machine behind an OpenAI-style endpoint."""
