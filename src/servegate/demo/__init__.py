"""The whole pipeline on one machine: engines, data plane and traffic as local processes."""
