"""Stages, evidence, policies, decisions, the ledger. Imports no model."""
