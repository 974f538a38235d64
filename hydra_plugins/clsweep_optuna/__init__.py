"""Hydra's way to clsweep's sweeper; Hydra finds sweepers under `hydra_plugins` alone."""
