"""Wave functions of variational Monte Carlo, as its users write them."""
