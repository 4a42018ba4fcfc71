// Compiled once for each instruction set; INSTRUCTION_SET and SUMMARY name the functions.
#include "pass.h"
#include "revisit.h"
#include "summary.h"
