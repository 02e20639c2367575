"""From a config to a table of scores."""
