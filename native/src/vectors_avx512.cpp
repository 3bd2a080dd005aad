#define KANNA_ISA avx512
#include "vectors.inc"
