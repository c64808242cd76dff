"""The machine: device, precision, memory, processes."""
