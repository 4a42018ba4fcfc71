// Compiled once for each instruction set; INSTRUCTION_SET names the function.
#include "pass.h"
