"""What every room may need: files, devices, validation, leaving a model as it was."""
