"""The events of the deployment, one module each.

An event is a pure function of what the ledger says and of the settings: it returns the :class:`Draft` of the next
document, or a :class:`Change` that says why nothing changes. It writes nothing; the state machine does.
"""
