"""Rollouts: prompts in; sampled tokens, their log-probabilities and finish reasons out."""
