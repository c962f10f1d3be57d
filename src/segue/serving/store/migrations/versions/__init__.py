"""One file a schema version, oldest first. A file that was released is never changed."""
