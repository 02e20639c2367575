"""How good a model is, how sure, how different what it sees; the report."""
