"""Paths that are made of the cascade's and the generative one: each sees nothing of them but :class:`segue.paths.Path`."""
