"""A run on one page: report.html, in one file."""
