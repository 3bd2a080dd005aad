#define KANNA_ISA baseline
#include "feedback.inc"
