"""The one idea: what the frozen layers make of an image is computed once and kept."""
