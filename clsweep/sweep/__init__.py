"""Sweeps: the hyperparameters of each method tuned on each benchmark with Optuna.

From the bottom up: `space` (what is searched), `plan` (one study, and what its results can be compared with),
`storage`, `samplers` and `pruners` (Optuna's, configured), `ledger` (a study's trials as several processes share
them), `trial` (one trial), `files` (CSV and YAML), `worker` (trials until the budget is spent), `monitor` (the
terminal). The Hydra plugin in `hydra_plugins/clsweep_optuna` starts the workers.
"""
