#define KANNA_ISA avx2
#include "vectors.inc"
