"""How a generative model speaks: the catalogue's trie and the only beam search."""
