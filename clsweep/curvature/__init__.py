"""Gradients of single examples and what is made of them; it knows no method."""
