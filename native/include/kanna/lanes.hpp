// Sixteen independent blocks side by side: one block per lane.
//
// Every operation works lane by lane, so the results are the same whether the compiler uses one 512-bit
// register, two of 256 bits or four of 128. Compiled once per instruction set, within namespace KANNA_ISA.
#pragma once

#include <cstdint>

#define KANNA_INLINE static inline __attribute__((always_inline))

namespace kanna {
namespace KANNA_ISA {

constexpr int LANES = 16;
typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));

KANNA_INLINE F splat(float value) { return F{} + value; }
KANNA_INLINE F minimum(F a, F b) { return a < b ? a : b; }
KANNA_INLINE F maximum(F a, F b) { return a > b ? a : b; }
KANNA_INLINE F clamp(F x, float low, float high) { return minimum(maximum(x, splat(low)), splat(high)); }
KANNA_INLINE F magnitude(F x) { return (F)((I)x & 0x7fffffff); }

// To the nearest whole number, ties to even; right for magnitudes below 2^22, and callers clamp first.
KANNA_INLINE F nearest(F x) {
    const F big = splat(12582912.0f);
    return (x + big) - big;
}

KANNA_INLINE F choose(I mask, F yes, F no) { return mask ? yes : no; }

// 1/x, or 0 where x is too small for its reciprocal to be finite.
KANNA_INLINE F reciprocal(F x) {
    const I usable = magnitude(x) > splat(1e-30f);
    return choose(usable, splat(1.0f) / choose(usable, x, splat(1.0f)), splat(0.0f));
}

KANNA_INLINE float lane(const F& v, int i) { return v[i]; }

constexpr float HUGE_ERROR = 3e38f;

}  // namespace KANNA_ISA
}  // namespace kanna
