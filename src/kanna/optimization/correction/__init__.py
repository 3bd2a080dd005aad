"""Values chosen again by the inputs that the quantized layers before them give."""
