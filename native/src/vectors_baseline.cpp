#define KANNA_ISA baseline
#include "vectors.inc"
