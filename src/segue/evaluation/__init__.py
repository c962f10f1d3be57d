"""How paths are judged. Imports no model."""
