"""Sweeps: the hyperparameters of each method tuned on each benchmark with Optuna.

From the bottom up:

- `plan`: one study, what it searches (`clsweep.space`), and what its results can be compared with;
- `tuning`: what a study's values are chosen on;
- `storage`, `samplers`, `pruners`, `named`: Optuna's, configured; `database` and `journal`: the two kinds of storage,
  hardened against servers that go away, full disks and killed processes;
- `promotion`, `continued`: which stopped trials go on, and which of a point's trials speaks for it;
- `marks`, `spent`, `owner`, `ledger`: a study's trials as several processes share them, and how long they took;
- `checking`: a sampler and a pruner tried before anything is made;
- `trial`, `finals`: one trial, one final run; `taken`: one that was finished, but not recorded;
- `status`, `verdict`, `files`: what a study has, what it lacks at its end, and its CSV and YAML files;
- `worker`: trials and final runs until nothing is left;
- `monitor`, `dry_run`, `estimate`: the terminal, and how long a run will take;
- `overrides`: the studies of a command line; `role`: what makes the same command a worker of a sweep;
- `processes`, `launchers`, `crew`: who works, here or as jobs of Hydra's launchers;
- `command`: from the command line, or from Python (`tune`), to finished studies.

The Hydra plugin in `hydra_plugins/clsweep_optuna` calls `command`.
"""
