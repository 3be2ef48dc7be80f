"""Estimators and the runner of evaluations."""
