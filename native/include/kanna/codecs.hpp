// One struct per encoding: how sixteen blocks are fitted and how a block becomes values.
//
// N values share a scale; PER of them make a block of the file. encode() gets LANES sub-blocks and writes `count`
// blocks; decode() turns one block into values, in ggml's order of operations, so that the bits are ggml's.
#pragma once

#include "kanna/scale_min_fit.hpp"
#include "kanna/block_layouts.hpp"
#include "kanna/scale_fit.hpp"

namespace kanna {
namespace KANNA_ISA {

// The codes of each lane, N one after another.
KANNA_SHARED void spill(int N, const F* codes, uint8_t* out) {
    for (int i = 0; i < N; ++i) {
        const I whole = __builtin_convertvector(codes[i], I);
        for (int k = 0; k < LANES; ++k) out[k * N + i] = static_cast<uint8_t>(whole[k]);
    }
}

// Gathers what the lanes found into blocks of PER lanes each, and writes `count` of them.
template <int N, int PER, class Block>
KANNA_INLINE void store_lanes(const F* codes, F d, F dmin, F scales, F mins, Block* out, int count) {
    uint8_t bytes[LANES * N];
    spill(N, codes, bytes);
    const I s = __builtin_convertvector(scales, I), m = __builtin_convertvector(mins, I);
    for (int b = 0; b < count; ++b) {
        BlockParts parts;
        parts.d = d[b * PER];
        parts.dmin = dmin[b * PER];
        for (int j = 0; j < PER; ++j) {
            parts.scales[j] = s[b * PER + j];
            parts.mins[j] = m[b * PER + j];
            for (int i = 0; i < N; ++i) parts.codes[j * N + i] = bytes[(b * PER + j) * N + i];
        }
        store(parts, out[b]);
    }
}

template <class Block, class Code>
struct SmallScale {  // one half-precision scale: Q4_0, Q5_0, Q8_0, IQ4_NL per 32 values, Q2_0 per 64, TQ1_0 and TQ2_0 per 256
    static constexpr int N = Block::values, PER = 1;
    using Type = Block;
    static constexpr auto code = Code::shared();

    KANNA_INLINE void encode(const F* x, const F* w, bool search, Block* out, int count) {
        F scale = fit_scale<N>(code, x, w, search);
        if (code.low == -code.high) scale = magnitude(scale);
        scale = round_to_half(scale);
        F codes[N];
        scale_codes<N>(code, x, scale, codes);
        store_lanes<N, PER>(codes, scale, F{}, F{}, F{}, out, count);
    }

    KANNA_INLINE void decode(const Block& b, float* y) {
        BlockParts p;
        load(b, p);
        for (int j = 0; j < N; ++j) y[j] = code.level(p.codes[j]) * p.d;
    }
};

template <class Block, int MAX>
struct SmallScaleMin {  // Q4_1, Q5_1: half-precision scale and minimum per 32 values
    static constexpr int N = 32, PER = 1;
    using Type = Block;

    KANNA_INLINE void encode(const F* x, const F* w, bool search, Block* out, int count) {
        ScaleMin pair = fit_scale_min<N, false>(x, w, MAX, search);
        pair.scale = round_to_half(pair.scale);
        pair.min = round_to_half(pair.min);
        F codes[N];
        scale_min_codes<N>(x, MAX, pair.scale, pair.min, codes);
        store_lanes<N, PER>(codes, pair.scale, -pair.min, F{}, F{}, out, count);
    }

    KANNA_INLINE void decode(const Block& b, float* y) {
        BlockParts p;
        load(b, p);
        for (int j = 0; j < N; ++j) y[j] = static_cast<float>(p.codes[j]) * p.d - p.dmin;
    }
};

template <class Block, int N_, int MAX, int TOP>
struct SuperScaleMin {  // Q2_K, Q4_K, Q5_K
    static constexpr int N = N_, PER = 256 / N_;
    using Type = Block;

    KANNA_INLINE void encode(const F* x, const F* w, bool search, Block* out, int count) {
        const ScaleMin pair = fit_scale_min<N, true>(x, w, MAX, search);
        const ScaleMinBlock block = quantize_scales_mins<N, PER>(x, w, MAX, TOP, pair, search);
        const F scale = block.d * block.scales, min = block.dmin * block.mins;
        F codes[N];
        scale_min_codes<N>(x, MAX, scale, -min, codes);
        store_lanes<N, PER>(codes, block.d, block.dmin, block.scales, block.mins, out, count);
    }

    KANNA_INLINE void decode(const Block& b, float* y) {
        BlockParts p;
        load(b, p);
        for (int j = 0; j < PER; ++j) {
            const float scale = p.d * static_cast<float>(p.scales[j]), min = p.dmin * static_cast<float>(p.mins[j]);
            for (int i = 0; i < N; ++i) y[N * j + i] = scale * static_cast<float>(p.codes[N * j + i]) - min;
        }
    }
};

template <class Block, int N_, class Code, int BOTTOM, int TOP>
struct SuperScale {  // Q3_K, Q6_K: sixteen sub-blocks of sixteen; IQ4_XS: eight of thirty-two
    static constexpr int N = N_, PER = 256 / N_;
    using Type = Block;
    static constexpr auto code = Code::shared();

    KANNA_INLINE void encode(const F* x, const F* w, bool search, Block* out, int count) {
        const F fitted = fit_scale<N>(code, x, w, search);
        const ScaleBlock block = quantize_scales<N, PER>(code, x, w, BOTTOM, TOP, fitted, search);
        F codes[N];
        scale_codes<N>(code, x, block.d * block.scales, codes);
        store_lanes<N, PER>(codes, block.d, F{}, block.scales, F{}, out, count);
    }

    KANNA_INLINE void decode(const Block& b, float* y) {
        BlockParts p;
        load(b, p);
        for (int j = 0; j < PER; ++j) {
            const float scale = p.d * static_cast<float>(p.scales[j]);
            for (int i = 0; i < N; ++i) y[N * j + i] = scale * code.level(p.codes[N * j + i]);
        }
    }
};

using CodecQ4_0 = SmallScale<Q4_0, Whole<-8, 7>>;
using CodecQ5_0 = SmallScale<Q5_0, Whole<-16, 15>>;
using CodecQ8_0 = SmallScale<Q8_0, Whole<-127, 127>>;
using CodecIQ4_NL = SmallScale<IQ4_NL, Levels>;
using CodecQ2_0 = SmallScale<Q2_0, Whole<-1, 2>>;
using CodecTQ2_0 = SmallScale<TQ2_0, Whole<-1, 1>>;
using CodecTQ1_0 = SmallScale<TQ1_0, Whole<-1, 1>>;
using CodecQ4_1 = SmallScaleMin<Q4_1, 15>;
using CodecQ5_1 = SmallScaleMin<Q5_1, 31>;
using CodecQ2_K = SuperScaleMin<Q2_K, 16, 3, 15>;
using CodecQ4_K = SuperScaleMin<Q4_K, 32, 15, 63>;
using CodecQ5_K = SuperScaleMin<Q5_K, 32, 31, 63>;
using CodecQ3_K = SuperScale<Q3_K, 16, Whole<-4, 3>, -32, 31>;
using CodecQ6_K = SuperScale<Q6_K, 16, Whole<-32, 31>, -128, 127>;
using CodecIQ4_XS = SuperScale<IQ4_XS, 32, Levels, -32, 31>;

}  // namespace KANNA_ISA
}  // namespace kanna
