#define KANNA_ISA avx2
#include "feedback.inc"
