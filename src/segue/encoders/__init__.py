"""One vector an item and modality."""
