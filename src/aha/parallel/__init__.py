"""The decoder over several processes as a pipeline: schedules as data, a simulator of their bubbles, DualPipe."""
