#define KANNA_ISA avx512
#include "kernels.inc"
