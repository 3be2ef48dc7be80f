"""What changes weights: batches, one step, optimiser groups, schedules, and a state that continues bit for bit."""
