//! Benchmarks, the simulation and the load harness of Cutwater.
