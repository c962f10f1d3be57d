"""Alembic's scripts for the online store: ``env.py`` runs them, ``versions/`` holds one file a schema version."""
