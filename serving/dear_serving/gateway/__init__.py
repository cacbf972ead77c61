"""The gateway process without HTTP: admission, ranking, and calls to the engines."""
