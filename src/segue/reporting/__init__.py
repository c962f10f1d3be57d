"""Pages for people, the summary for machines, and the verdict on a terminal."""
