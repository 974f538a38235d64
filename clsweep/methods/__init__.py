"""The built-in methods: one module each, with the two functions of `clsweep.methods.contract`.

The keys of every dict are the parameters' names with `.` replaced by `__`. Methods read their hyperparameters from
the model: `model.gamma`, `model.epsilon`, and `model.fisher` and `model.floor_at_zero` for those that have them.
"""
