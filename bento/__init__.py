"""The BentoML service and its images. Imports nothing of the training side."""
