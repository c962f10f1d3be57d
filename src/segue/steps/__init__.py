"""One module a step of the graph, and the registry that both engines are made from."""
