"""A folder of images: listed, read, decoded, judged."""
