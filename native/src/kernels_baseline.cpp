#define KANNA_ISA baseline
#include "kernels.inc"
