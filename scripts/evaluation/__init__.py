"""The project's experiments: what is run, how it is made again anywhere, and the pages that are written from it."""
