// MLX's affine groups: N values share a scale and a bias, value = scale * code + bias, code in 0..2^bits - 1.
//
// A group of ours is its codes, lowest bits first, then scale and bias: a writer lays the three in planes of their own.
// Width of codes and type of scales are known at run time, so that one kernel serves 18 encodings.
#pragma once

#include "kanna/kernels.hpp"
#include "kanna/scale_min_fit.hpp"
#include "kanna/block_layouts.hpp"

namespace kanna {

constexpr int number_bytes(Number number) { return number == Number::single ? 4 : 2; }

namespace {

inline float load_number(const uint8_t* at, Number number) {
    if (number == Number::single) {
        float value;
        std::memcpy(&value, at, 4);
        return value;
    }
    uint16_t bits;
    std::memcpy(&bits, at, 2);
    return number == Number::half ? half_to_float(bits) : bfloat_to_float(bits);
}

inline void store_number(float value, uint8_t* at, Number number) {
    if (number == Number::single) {
        std::memcpy(at, &value, 4);
        return;
    }
    const uint16_t bits = number == Number::half ? factor_to_half(value) : float_to_bfloat(value);
    std::memcpy(at, &bits, 2);
}

// `count` codes, a multiple of 8, as a run of bits.
inline void pack_bits(const uint8_t* codes, int count, int bits, uint8_t* out) {
    for (int i = 0; i < count; i += 8) {
        uint64_t run = 0;
        for (int k = 0; k < 8; ++k) run |= static_cast<uint64_t>(codes[i + k]) << (bits * k);
        for (int k = 0; k < bits; ++k) *out++ = static_cast<uint8_t>(run >> (8 * k));
    }
}

inline void unpack_bits(const uint8_t* in, int count, int bits, uint8_t* codes) {
    for (int i = 0; i < count; i += 8) {
        uint64_t run = 0;
        for (int k = 0; k < bits; ++k) run |= static_cast<uint64_t>(*in++) << (8 * k);
        for (int k = 0; k < 8; ++k) codes[i + k] = static_cast<uint8_t>(run >> (bits * k) & ((1u << bits) - 1));
    }
}

}  // namespace

namespace KANNA_ISA {

// The nearest value that the type holds.
KANNA_INLINE F round_to(F x, Number number) {
    if (number == Number::single) return x;
    if (number == Number::half) return round_to_half(x);
    const U bits = (U)x;
    return (F)((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u);
}

// The value `steps` further from zero among those of the type.
KANNA_INLINE F further(F x, int steps, Number number) {
    return number == Number::single ? x : (F)((U)x + static_cast<uint32_t>(steps * (number == Number::half ? 0x2000 : 0x10000)));
}

// To the nearest whole number, ties to even, for any magnitude.
KANNA_INLINE F nearest_any(F x) {
    const I sign = (I)x & (I{} + static_cast<int32_t>(0x80000000u));
    const F size = magnitude(x), big = splat(8388608.0f);
    return (F)((I)choose(size < big, (size + big) - big, size) | sign);
}

template <int N_>
struct Affine {
    // What error feedback asks of a grid (grids.hpp).
    static constexpr int N = N_, PER = 1, BOTTOM = 1, TOP = 1, HIGHEST_MIN = 0, FACTORS = 2;
    static constexpr bool HAS_MIN = true;

    int bits;
    Number number;

    constexpr int bytes() const { return N * bits / 8 + 2 * number_bytes(number); }
    float top() const { return static_cast<float>((1 << bits) - 1); }
    F value(F x) const { return kanna::KANNA_ISA::nearest(clamp(x, 0.0f, top())); }
    F code(F x) const { return value(x); }
    float level(int code) const { return static_cast<float>(code); }
    F round(F x) const { return round_to(x, number); }

    void load(const uint8_t* data, BlockParts& p) const {
        const uint8_t* scale = data + N * bits / 8;
        p.d = load_number(scale, number);
        p.dmin = -load_number(scale + number_bytes(number), number);
        p.scales[0] = p.mins[0] = 1;
        unpack_bits(data, N, bits, p.codes);
    }

    void store(const BlockParts& p, uint8_t* data) const {
        uint8_t* scale = data + N * bits / 8;
        store_number(p.d, scale, number);
        store_number(-p.dmin, scale + number_bytes(number), number);
        pack_bits(p.codes, N, bits, data);
    }

    void decode(const uint8_t* data, float* y) const {
        BlockParts p;
        load(data, p);
        for (int i = 0; i < N; ++i) y[i] = p.d * static_cast<float>(p.codes[i]) - p.dmin;
    }

    // Scale and minimum from the lowest to the highest value; the one of larger magnitude is held exactly (mlx/ops.cpp,
    // affine quantization).
    ScaleMin ends(const F* x) const {
        F low = round(x[0]), high = low;
        for (int i = 1; i < N; ++i) {
            low = minimum(low, round(x[i]));
            high = maximum(high, round(x[i]));
        }
        const I below = magnitude(low) > magnitude(high);
        const F edge = choose(below, low, high), range = maximum((high - low) / splat(top()), splat(1e-7f));
        F scale = choose(below, range, -range);
        const F steps = nearest_any(edge / scale);
        const I held = steps != splat(0.0f);
        scale = choose(held, edge / choose(held, steps, splat(1.0f)), scale);
        return {scale, choose(held, edge, F{})};
    }

    F cost(const F* x, const F* w, F scale, F bias) const {
        const F inverse = reciprocal(scale);
        F sum{};
        for (int i = 0; i < N; ++i) {
            const F off = scale * value((x[i] - bias) * inverse) + bias - x[i];
            sum += w[i] * off * off;
        }
        return sum;
    }

    // The best bias for the codes that a scale and a bias give.
    F bias_for(const F* x, const F* w, const Sums& s, F scale, F bias) const {
        const F inverse = reciprocal(scale);
        F sum{};
        for (int i = 0; i < N; ++i) sum += w[i] * value((x[i] - bias) * inverse);
        return (s.x - scale * sum) * reciprocal(s.w);
    }

    // Weighted least squares from many guesses of the range, then scale and bias among their neighbours in the type.
    ScaleMin fit(const F* x, const F* w) const {
        const float max = top();
        F low = x[0], high = x[0];
        for (int i = 1; i < N; ++i) {
            low = minimum(low, x[i]);
            high = maximum(high, x[i]);
        }
        const F range = high - low;
        const Sums s = sums_of<N>(x, w);
        const F inverse_range = reciprocal(range);
        ScaleMin pair, best{range * (1.0f / max), low};
        F least = splat(HUGE_ERROR);
        auto keep = [&](F error) {
            const I better = error < least;
            least = choose(better, error, least);
            best.scale = choose(better, pair.scale, best.scale);
            best.min = choose(better, pair.min, best.min);
        };
        // Guesses: the range cut at its bottom and at its top by parts of what many steps would cover.
        const int cuts = bits > 5 ? 2 : bits > 3 ? 3 : 4;
        const int tops = bits > 5 ? 8 : 10;
        const float spread = bits > 5 ? 3.0f : bits > 2 ? 0.28f * max : 0.45f * max, first = bits > 2 ? 0.6f : 0.4f;
        for (int cut = 0; cut < cuts; ++cut) {
            const F shift = low + range * (static_cast<float>(cut) * (bits > 2 ? 0.045f : 0.09f));
            for (int guess = 0; guess < tops; ++guess) {
                const float steps = max - first + spread * static_cast<float>(guess) / static_cast<float>(tops - 1);
                keep(solve_scale_min<N, false>(x, w, s, inverse_range * steps, shift, max, pair));
            }
        }
        for (int again = 0; again < 3; ++again)
            keep(solve_scale_min<N, false>(x, w, s, reciprocal(best.scale), best.min, max, pair));
        return settled(x, w, s, best);
    }

    ScaleMin settled(const F* x, const F* w, const Sums& s, ScaleMin start) const {
        const ScaleMin plain = ends(x);
        ScaleMin best{round(plain.scale), round(plain.min)};
        F least = cost(x, w, best.scale, best.min);
        const F scale = round(start.scale);
        const int reach = number == Number::single ? 0 : 1;
        for (int k = -reach; k <= reach; ++k) {
            const F now = round(further(scale, k, number));
            const F bias = round(bias_for(x, w, s, now, start.min));
            for (int j = -reach; j <= reach; ++j) {
                const F moved = round(further(bias, j, number)), error = cost(x, w, now, moved);
                const I better = error < least;
                least = choose(better, error, least);
                best.scale = choose(better, now, best.scale);
                best.min = choose(better, moved, best.min);
            }
        }
        return best;
    }

    void encode(const F* x, const F* w, bool search, uint8_t* out, int count) const {
        F codes[N];
        ScaleMin pair;
        if (search) {
            pair = fit(x, w);
            const F inverse = reciprocal(pair.scale);
            for (int i = 0; i < N; ++i) codes[i] = value((x[i] - pair.min) * inverse);
        } else {
            pair = ends(x);
            for (int i = 0; i < N; ++i) codes[i] = value((round(x[i]) - pair.min) / pair.scale);
            pair = {round(pair.scale), round(pair.min)};
        }
        for (int k = 0; k < count; ++k) {
            BlockParts p;
            p.d = pair.scale[k];
            p.dmin = -pair.min[k];
            for (int i = 0; i < N; ++i) p.codes[i] = static_cast<uint8_t>(codes[i][k]);
            store(p, out + k * bytes());
        }
    }
};

}  // namespace KANNA_ISA
}  // namespace kanna

// Every width, group and type of scales: X(name, bits, values, number).
#define KANNA_AFFINE_NUMBERS(X, bits, n)                    \
    X("affine" #bits "g" #n, bits, n, Number::bfloat)       \
    X("affine" #bits "g" #n "_f16", bits, n, Number::half)  \
    X("affine" #bits "g" #n "_f32", bits, n, Number::single)
#define KANNA_AFFINE_GROUPS(X, bits) \
    KANNA_AFFINE_NUMBERS(X, bits, 32) KANNA_AFFINE_NUMBERS(X, bits, 64) KANNA_AFFINE_NUMBERS(X, bits, 128)
#define KANNA_AFFINE(X)                                                               \
    KANNA_AFFINE_GROUPS(X, 2) KANNA_AFFINE_GROUPS(X, 3) KANNA_AFFINE_GROUPS(X, 4)     \
    KANNA_AFFINE_GROUPS(X, 5) KANNA_AFFINE_GROUPS(X, 6) KANNA_AFFINE_GROUPS(X, 8)
