// Sixteen independent blocks side by side: one block per lane.
//
// Every operation works lane by lane, so the results are the same whether the compiler uses one 512-bit
// register, two of 256 bits or four of 128. Compiled once per instruction set, within namespace KANNA_ISA.
#pragma once

#include <cstdint>

#define KANNA_MEMBER inline __attribute__((always_inline))
#define KANNA_INLINE static KANNA_MEMBER
// Compiled once for all encodings that call it: nearly all of the time of compiling goes to what is inlined many times.
#define KANNA_SHARED static __attribute__((noinline))

namespace kanna {
namespace KANNA_ISA {

constexpr int LANES = 16;
typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef uint32_t U __attribute__((vector_size(4 * LANES)));  // for sums of bits, which may wrap

// One register's part of the sixteen lanes: loops that keep much in registers go through the lanes part by part.
#if defined(__AVX512F__)
constexpr int WIDTH = 64;
#elif defined(__AVX2__)
constexpr int WIDTH = 32;
#else
constexpr int WIDTH = 16;
#endif
constexpr int PIECES = 4 * LANES / WIDTH;
typedef float Piece __attribute__((vector_size(WIDTH), may_alias));
typedef int32_t PieceI __attribute__((vector_size(WIDTH), may_alias));

// GCC takes vectors that are wider than a register apart, but a conditional of theirs value by value.
#if defined(__AVX512F__)
KANNA_INLINE F choose(I mask, F yes, F no) { return mask ? yes : no; }
KANNA_INLINE I choose(I mask, I yes, I no) { return mask ? yes : no; }
#else
KANNA_INLINE I choose(I mask, I yes, I no) { return (mask & yes) | (~mask & no); }
KANNA_INLINE F choose(I mask, F yes, F no) { return (F)choose(mask, (I)yes, (I)no); }
#endif

KANNA_INLINE F splat(float value) { return F{} + value; }
KANNA_INLINE F minimum(F a, F b) { return choose(a < b, a, b); }
KANNA_INLINE F maximum(F a, F b) { return choose(a > b, a, b); }
KANNA_INLINE F clamp(F x, float low, float high) { return minimum(maximum(x, splat(low)), splat(high)); }
KANNA_INLINE F magnitude(F x) { return (F)((I)x & 0x7fffffff); }

// To the nearest whole number, ties to even; right for magnitudes below 2^22, and callers clamp first.
KANNA_INLINE F nearest(F x) {
    const F big = splat(12582912.0f);
    return (x + big) - big;
}

// 1/x, or 0 where x is too small for its reciprocal to be finite.
KANNA_INLINE F reciprocal(F x) {
    const I usable = magnitude(x) > splat(1e-30f);
    return choose(usable, splat(1.0f) / choose(usable, x, splat(1.0f)), splat(0.0f));
}

// Sums of neighbouring groups of PER lanes, in every lane of the group; pairs are added in one fixed order.
template <int PER>
KANNA_INLINE F group_sums(F v) {
    if (PER >= 2) v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    if (PER >= 4) v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    if (PER >= 8) v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    if (PER >= 16) v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    return v;
}

// Signed value of largest magnitude of each group of PER lanes, in every lane of the group.
template <int PER>
KANNA_INLINE F group_peaks(F v) {
    // Towards the lower lane, so that two values of the same magnitude and different sign cannot disagree.
    F out = v;
    for (int first = 0; first < LANES; first += PER) {
        float peak = v[first];
        for (int i = first + 1; i < first + PER; ++i)
            if (v[i] * v[i] > peak * peak) peak = v[i];
        for (int i = first; i < first + PER; ++i) out[i] = peak;
    }
    return out;
}

// The nearest half-precision value, saturating, as factor_to_half and half_to_float give it.
KANNA_INLINE F round_to_half(F x) {
    const I sign = (I)x & (I{} + static_cast<int32_t>(0x80000000u));
    const I bits = (I)x & 0x7fffffff;
    const I normal = (I)((U)bits + 0xfff + ((U)bits >> 13 & 1)) & ~0x1fff;
    const F small = ((F)bits + splat(0.5f)) - splat(0.5f);
    I out = choose(bits < 0x38800000, (I)small, normal);
    out = choose(out > 0x477fe000, I{} + 0x477fe000, out);
    return (F)(out | sign);
}

constexpr float HUGE_ERROR = 3e38f;

}  // namespace KANNA_ISA
}  // namespace kanna
