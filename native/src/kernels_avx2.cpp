#define KANNA_ISA avx2
#include "kernels.inc"
