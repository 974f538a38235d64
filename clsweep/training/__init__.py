"""One run: the loop over contexts, the learner and its update, and who is told of it."""
