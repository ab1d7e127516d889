"""What `jetfold bench` measures.

networks    the network, as numpy arrays: every framework evaluates the same one
backends    what is asked of a framework, and which there are
torch       the same, for PyTorch
measure     the timing
suite       which operators, methods and modes, and what is recorded of each
stochastic  the same, for operators estimated from random directions and for high dimension
vmc         the same, for gradient and Laplacian of wave functions, in JAX
training    the same, for gradients of losses to the parameters: training steps
report      table, CSV file and picture of the suite
estimates   table, CSV file and picture of the stochastic measurements
costs       table, CSV file and picture of the wave functions
steps       table, CSV file, picture and page of the training steps
"""
