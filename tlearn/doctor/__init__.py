"""What is wrong with a data folder: looked for in its listing, in every decoded picture, and in features."""
