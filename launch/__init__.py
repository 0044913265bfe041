"""Launching runs on clusters: strings only, nothing of ours is imported."""
