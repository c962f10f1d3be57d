"""Simulated users of known preference, driving a running service. Nothing that comes out of here is evidence about a real
public: a simulation has a workspace of its own, and whatever it writes or prints says that it is one."""
