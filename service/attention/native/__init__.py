"""The pass in C++: the same figures as the eager one, in one visit of each row."""
