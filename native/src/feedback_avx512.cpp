#define KANNA_ISA avx512
#include "feedback.inc"
