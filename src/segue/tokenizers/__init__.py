"""From item vectors to semantic IDs: frozen codebooks and item maps that grow."""
