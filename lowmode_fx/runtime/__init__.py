"""Training with several modes: the model that switches between them, schedules and loaders."""
