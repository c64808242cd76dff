"""The machine: device, precision, memory, processes, and a record of them."""
