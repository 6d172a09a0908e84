"""Denoising steps as pure functions of an explicit state, one state per chain.

A chain's life: `make_solver` -> `SolverState(noise)` -> for each evaluation: the network is told
`solver.timesteps[state.index]`, its output becomes an estimate of x_0 (schedule.py), and
`solver.step` gives the next state -> after `num_evaluations`, `state.x` is clean.
Solvers work on estimates of x_0 and do not care how the network expressed them. Each file declares
its own (`Method`); methods.py lists them by name.
"""
