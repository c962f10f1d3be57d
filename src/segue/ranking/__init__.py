"""The rules every path obeys, and the one selector."""
