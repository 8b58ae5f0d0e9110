"""A small network's forward pass in one call: C++ that is compiled where it runs."""
