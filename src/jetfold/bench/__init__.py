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
evidence    the run of `jetfold bench --paper`: grids, file, table
paper       the experiments of Dangel et al. 2025, and what they published
fits        straight lines through cells
results     what was measured, in a file: specs and cells
processes   calls in processes of their own
experiments what a spec stands for: tables of operators and networks
cells       measuring specs: times in turns, peak memory in a process per cell
estimates   table, CSV file and picture of the stochastic measurements
costs       table, CSV file and picture of the wave functions
steps       table, CSV file and picture of the training steps
pages       the tables of README and docs, from the CSV files in docs/results
"""
