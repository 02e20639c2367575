"""The product tried on pictures that it draws itself."""
