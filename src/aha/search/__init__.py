"""Test-time search: strategies that spend more tokens on one problem to answer it better."""
