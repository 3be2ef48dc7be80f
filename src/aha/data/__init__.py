"""Training text and examples as pure functions from records to records."""
