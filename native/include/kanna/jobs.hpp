// Blocks of a matrix into the lanes of a codec and back.
#pragma once

#include "kanna/kernels.hpp"
#include "kanna/lanes.hpp"

namespace kanna {
namespace KANNA_ISA {

KANNA_INLINE F square_root(F x) {
    F out;
    for (int k = 0; k < LANES; ++k) out[k] = __builtin_sqrtf(x[k]);
    return out;
}

// Sub-blocks side by side; lanes past the last one repeat it. Compiled once, not once per encoding.
static __attribute__((noinline)) void load_lanes(int N, const Job& job, int64_t first, int64_t last, int64_t per_row,
                                                 F* x, F* w) {
    for (int k = 0; k < LANES; ++k) {
        const int64_t at = first + k < last ? first + k : last - 1;
        const float* values = job.x + at * N;
        for (int i = 0; i < N; ++i) x[i][k] = values[i];
        if (job.weights) {
            const float* weights = job.weights + at % per_row * N;
            for (int i = 0; i < N; ++i) w[i][k] = weights[i];
        }
    }
    F square{};
    for (int i = 0; i < N; ++i) square += x[i] * x[i];
    const F mean = square * (1.0f / static_cast<float>(N)), level = square_root(mean);
    F total{};
    for (int i = 0; i < N; ++i) {
        F own = splat(1.0f);
        switch (job.weighting) {
            case Weighting::uniform: break;
            case Weighting::magnitude: own = magnitude(x[i]); break;
            case Weighting::square: own = x[i] * x[i]; break;
            case Weighting::level_magnitude: own = level + magnitude(x[i]); break;
            case Weighting::level_square: own = mean + x[i] * x[i]; break;
        }
        w[i] = job.weights ? w[i] * own : own;
        total += w[i];
    }
    // A block that nothing depends on is fitted evenly.
    const I unused = total <= splat(1e-30f);
    for (int i = 0; i < N; ++i) w[i] = choose(unused, splat(1.0f), w[i]);
}

template <class C>
void encode(const Job& job, int64_t first, int64_t last, uint8_t* out) {
    using Block = typename C::Type;
    constexpr int GROUP = LANES / C::PER;
    Block* blocks = reinterpret_cast<Block*>(out);
    F x[C::N], w[C::N];
    for (int64_t at = first; at < last; at += GROUP) {
        const int count = static_cast<int>(last - at < GROUP ? last - at : GROUP);
        load_lanes(C::N, job, at * C::PER, last * C::PER, job.blocks_per_row * C::PER, x, w);
        C::encode(x, w, job.search, blocks + at, count);
    }
}

template <class C>
void decode(const uint8_t* data, int64_t blocks, float* out) {
    const auto* in = reinterpret_cast<const typename C::Type*>(data);
    for (int64_t b = 0; b < blocks; ++b) C::decode(in[b], out + b * C::Type::values);
}

#define KANNA_CODEC(name, C) {name, C::Type::values, sizeof(C::Type), encode<C>, decode<C>}

}  // namespace KANNA_ISA
}  // namespace kanna
