"""Encoder, masked autoencoder, fusion, classifier and the frozen teacher."""
