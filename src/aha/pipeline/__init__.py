"""A recipe as a graph of stages: what is missing is done, what is partial continued, what is stale named and redone."""
