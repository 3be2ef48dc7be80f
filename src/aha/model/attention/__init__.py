"""Attention: who sees whom (plan), and two ways to make queries, keys and values (grouped-query, latent)."""
