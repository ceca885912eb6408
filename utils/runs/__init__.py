"""Finished runs: their folder, predictions, comparison, ensembles, submissions."""
