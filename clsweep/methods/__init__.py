"""The methods: what one is, a file of one's own, and the built-in ones.

`base` says what the loop asks of a method; `contract`, `files` and `instances` are a file's two functions behind that;
`loading` makes either from a setting. Every built-in method is one module; `names` lists them.
"""

from clsweep import targets


def names() -> tuple[str, ...]:
    """The built-in methods: the files of `conf/regularizer` that name a class, so not `custom`."""
    return tuple(targets.files("regularizer"))
