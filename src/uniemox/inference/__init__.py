"""Answers of a trained model: predictions, evaluations, tables, and the backends that compute them."""
