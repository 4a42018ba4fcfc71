// Compiled once for each instruction set; INSTRUCTION_SET, SUMMARY and ARRAYS name its
// functions.
#include "numbers.h"
#include "pass.h"
#include "revisit.h"
#include "summary.h"
