// One struct per encoding: how sixteen blocks are fitted, packed and unpacked.
//
// N values share a scale; PER of them make a block of the file. encode() gets LANES sub-blocks and writes `count`
// blocks; decode() turns one block into values, in ggml's order of operations, so that the bits are ggml's.
#pragma once

#include "kanna/line.hpp"
#include "kanna/pack.hpp"
#include "kanna/ray.hpp"

namespace kanna {
namespace KANNA_ISA {

template <int N>
KANNA_INLINE void spill(const F* codes, uint8_t out[LANES][N]) {
    for (int i = 0; i < N; ++i) {
        const I whole = __builtin_convertvector(codes[i], I);
        for (int k = 0; k < LANES; ++k) out[k][i] = static_cast<uint8_t>(whole[k]);
    }
}

// Sign-extended whole numbers of one vector.
KANNA_INLINE void spill_scales(F scales, int add, uint8_t* out) {
    const I whole = __builtin_convertvector(scales, I);
    for (int k = 0; k < LANES; ++k) out[k] = static_cast<uint8_t>(whole[k] + add);
}

template <class Block, int LOW, int HIGH>
struct SmallRay {  // Q4_0, Q5_0, Q8_0: one half-precision scale per 32 values
    static constexpr int N = 32, PER = 1;
    using Type = Block;

    KANNA_INLINE void encode(const F* x, const F* w, bool search, Block* out, int count) {
        using Code = Whole<LOW, HIGH>;
        F scale = fit_ray<Code, N>(x, w, search);
        if (LOW == -HIGH) scale = magnitude(scale);
        uint16_t halves[LANES];
        for (int k = 0; k < LANES; ++k) {
            halves[k] = factor_to_half(scale[k]);
            scale[k] = half_to_float(halves[k]);
        }
        F codes[N];
        ray_codes<Code, N>(x, scale, codes);
        uint8_t bytes[LANES][N];
        spill<N>(codes, bytes);
        for (int k = 0; k < count; ++k) {
            out[k].d = halves[k];
            store(bytes[k], out[k]);
        }
    }

    KANNA_INLINE void store(const uint8_t* codes, Q4_0& b) { pack_nibbles(codes, b.qs); }
    KANNA_INLINE void store(const uint8_t* codes, Q5_0& b) {
        pack_nibbles(codes, b.qs);
        pack_fifth_bits(codes, b.qh);
    }
    KANNA_INLINE void store(const uint8_t* codes, Q8_0& b) {
        for (int j = 0; j < 32; ++j) b.qs[j] = static_cast<int8_t>(codes[j] - 127);
    }

    KANNA_INLINE void decode(const Q4_0& b, float* y) {
        uint8_t c[32];
        unpack_nibbles(b.qs, c);
        const float d = half_to_float(b.d);
        for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(c[j] - 8) * d;
    }
    KANNA_INLINE void decode(const Q5_0& b, float* y) {
        uint8_t c[32];
        unpack_nibbles(b.qs, c);
        unpack_fifth_bits(b.qh, c);
        const float d = half_to_float(b.d);
        for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(c[j] - 16) * d;
    }
    KANNA_INLINE void decode(const Q8_0& b, float* y) {
        const float d = half_to_float(b.d);
        for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(b.qs[j]) * d;
    }
};

template <class Block, int MAX>
struct SmallLine {  // Q4_1, Q5_1: half-precision scale and minimum per 32 values
    static constexpr int N = 32, PER = 1;
    using Type = Block;

    KANNA_INLINE void encode(const F* x, const F* w, bool search, Block* out, int count) {
        Line line = fit_line<N, MAX, false>(x, w, search);
        uint16_t d[LANES], m[LANES];
        for (int k = 0; k < LANES; ++k) {
            d[k] = factor_to_half(line.scale[k]);
            m[k] = factor_to_half(line.min[k]);
            line.scale[k] = half_to_float(d[k]);
            line.min[k] = half_to_float(m[k]);
        }
        F codes[N];
        line_codes<N, MAX>(x, line.scale, line.min, codes);
        uint8_t bytes[LANES][N];
        spill<N>(codes, bytes);
        for (int k = 0; k < count; ++k) {
            out[k].d = d[k];
            out[k].m = m[k];
            store(bytes[k], out[k]);
        }
    }

    KANNA_INLINE void store(const uint8_t* codes, Q4_1& b) { pack_nibbles(codes, b.qs); }
    KANNA_INLINE void store(const uint8_t* codes, Q5_1& b) {
        pack_nibbles(codes, b.qs);
        pack_fifth_bits(codes, b.qh);
    }

    KANNA_INLINE void decode(const Block& b, float* y) {
        uint8_t c[32];
        unpack_nibbles(b.qs, c);
        fifth(b, c);
        const float d = half_to_float(b.d), m = half_to_float(b.m);
        for (int j = 0; j < 32; ++j) y[j] = static_cast<float>(c[j]) * d + m;
    }
    KANNA_INLINE void fifth(const Q4_1&, uint8_t*) {}
    KANNA_INLINE void fifth(const Q5_1& b, uint8_t* c) { unpack_fifth_bits(b.qh, c); }
};

struct CodecIQ4_NL {
    static constexpr int N = 32, PER = 1;
    using Type = IQ4_NL;

    KANNA_INLINE void encode(const F* x, const F* w, bool search, IQ4_NL* out, int count) {
        F scale = fit_ray<Levels, N>(x, w, search);
        uint16_t halves[LANES];
        for (int k = 0; k < LANES; ++k) {
            halves[k] = factor_to_half(scale[k]);
            scale[k] = half_to_float(halves[k]);
        }
        F codes[N];
        ray_codes<Levels, N>(x, scale, codes);
        uint8_t bytes[LANES][N];
        spill<N>(codes, bytes);
        for (int k = 0; k < count; ++k) {
            out[k].d = halves[k];
            pack_nibbles(bytes[k], out[k].qs);
        }
    }

    KANNA_INLINE void decode(const IQ4_NL& b, float* y) {
        uint8_t c[32];
        unpack_nibbles(b.qs, c);
        const float d = half_to_float(b.d);
        for (int j = 0; j < 32; ++j) y[j] = d * static_cast<float>(levels[c[j]]);
    }
};

struct CodecIQ4_XS {
    static constexpr int N = 32, PER = 8;
    using Type = IQ4_XS;

    KANNA_INLINE void encode(const F* x, const F* w, bool search, IQ4_XS* out, int count) {
        const F fitted = fit_ray<Levels, N>(x, w, search);
        const RayBlock block = quantize_rays<Levels, N, -32, 31, PER>(x, w, fitted, search);
        const F scale = block.d * block.scales;
        F codes[N];
        ray_codes<Levels, N>(x, scale, codes);
        uint8_t bytes[LANES][N], scales[LANES];
        spill<N>(codes, bytes);
        spill_scales(block.scales, 32, scales);
        for (int b = 0; b < count; ++b) {
            out[b].d = factor_to_half(block.d[b * PER]);
            uint32_t high = 0;
            for (int j = 0; j < PER; ++j) {
                const int s = scales[b * PER + j];
                high |= static_cast<uint32_t>(s >> 4) << (2 * j);
                pack_nibbles(bytes[b * PER + j], out[b].qs + 16 * j);
            }
            out[b].scales_h = static_cast<uint16_t>(high);
            for (int j = 0; j < 4; ++j)
                out[b].scales_l[j] =
                    static_cast<uint8_t>((scales[b * PER + 2 * j] & 15) | (scales[b * PER + 2 * j + 1] & 15) << 4);
        }
    }

    KANNA_INLINE void decode(const IQ4_XS& b, float* y) {
        const float d = half_to_float(b.d);
        for (int j = 0; j < PER; ++j) {
            const int scale = (b.scales_l[j / 2] >> (4 * (j % 2)) & 15) | (b.scales_h >> (2 * j) & 3) << 4;
            const float dl = d * static_cast<float>(scale - 32);
            uint8_t c[32];
            unpack_nibbles(b.qs + 16 * j, c);
            for (int i = 0; i < 32; ++i) y[32 * j + i] = dl * static_cast<float>(levels[c[i]]);
        }
    }
};

template <class Block, int N_, int MAX, int TOP, int PER_>
struct SuperLine {  // Q2_K, Q4_K, Q5_K
    static constexpr int N = N_, PER = PER_;
    using Type = Block;

    KANNA_INLINE void encode(const F* x, const F* w, bool search, Block* out, int count) {
        const Line line = fit_line<N, MAX, true>(x, w, search);
        const LineBlock block = quantize_lines<N, MAX, TOP, PER>(x, w, line, search);
        const F scale = block.d * block.scales, min = block.dmin * block.mins;
        F codes[N];
        line_codes<N, MAX>(x, scale, -min, codes);
        uint8_t bytes[LANES][N], scales[LANES], mins[LANES];
        spill<N>(codes, bytes);
        spill_scales(block.scales, 0, scales);
        spill_scales(block.mins, 0, mins);
        for (int b = 0; b < count; ++b) {
            out[b].d = factor_to_half(block.d[b * PER]);
            out[b].dmin = factor_to_half(block.dmin[b * PER]);
            store(bytes[b * PER], scales + b * PER, mins + b * PER, out[b]);
        }
    }

    KANNA_INLINE void store(const uint8_t* c, const uint8_t* scales, const uint8_t* mins, Q2_K& b) {
        for (int j = 0; j < 16; ++j) b.scales[j] = static_cast<uint8_t>(scales[j] | mins[j] << 4);
        pack_pairs(c, b.qs);
    }
    KANNA_INLINE void store(const uint8_t* c, const uint8_t* scales, const uint8_t* mins, Q4_K& b) {
        pack_scales_mins(scales, mins, b.scales);
        for (int j = 0; j < 4; ++j)
            for (int l = 0; l < 32; ++l)
                b.qs[32 * j + l] = static_cast<uint8_t>(c[64 * j + l] | c[64 * j + 32 + l] << 4);
    }
    KANNA_INLINE void store(const uint8_t* c, const uint8_t* scales, const uint8_t* mins, Q5_K& b) {
        pack_scales_mins(scales, mins, b.scales);
        for (int l = 0; l < 32; ++l) {
            uint32_t high = 0;
            for (int j = 0; j < 8; ++j) high |= static_cast<uint32_t>(c[32 * j + l] >> 4) << j;
            b.qh[l] = static_cast<uint8_t>(high);
        }
        for (int j = 0; j < 4; ++j)
            for (int l = 0; l < 32; ++l)
                b.qs[32 * j + l] = static_cast<uint8_t>((c[64 * j + l] & 15) | (c[64 * j + 32 + l] & 15) << 4);
    }

    KANNA_INLINE void decode(const Q2_K& b, float* y) {
        uint8_t c[256];
        unpack_pairs(b.qs, c);
        const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
        for (int j = 0; j < 16; ++j) {
            const float scale = d * static_cast<float>(b.scales[j] & 15), min = dmin * static_cast<float>(b.scales[j] >> 4);
            for (int i = 0; i < 16; ++i) y[16 * j + i] = scale * static_cast<float>(c[16 * j + i]) - min;
        }
    }
    KANNA_INLINE void decode(const Q4_K& b, float* y) { decode_eight(b, nullptr, y); }
    KANNA_INLINE void decode(const Q5_K& b, float* y) { decode_eight(b, b.qh, y); }

    template <class B>
    KANNA_INLINE void decode_eight(const B& b, const uint8_t* qh, float* y) {
        uint8_t scales[8], mins[8];
        unpack_scales_mins(b.scales, scales, mins);
        const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
        for (int j = 0; j < 8; ++j) {
            const float scale = d * static_cast<float>(scales[j]), min = dmin * static_cast<float>(mins[j]);
            const uint8_t* q = b.qs + 32 * (j / 2);
            for (int i = 0; i < 32; ++i) {
                int code = q[i] >> (4 * (j % 2)) & 15;
                if (qh) code |= (qh[i] >> j & 1) << 4;
                y[32 * j + i] = scale * static_cast<float>(code) - min;
            }
        }
    }
};

template <class Block, int LOW, int HIGH, int BOTTOM, int TOP>
struct SuperRay {  // Q3_K, Q6_K: sixteen sub-blocks of sixteen
    static constexpr int N = 16, PER = 16;
    using Type = Block;

    KANNA_INLINE void encode(const F* x, const F* w, bool search, Block* out, int count) {
        using Code = Whole<LOW, HIGH>;
        const F fitted = fit_ray<Code, N>(x, w, search);
        const RayBlock block = quantize_rays<Code, N, BOTTOM, TOP, PER>(x, w, fitted, search);
        const F scale = block.d * block.scales;
        F codes[N];
        ray_codes<Code, N>(x, scale, codes);
        uint8_t bytes[LANES][N];
        spill<N>(codes, bytes);
        if (count) {
            out[0].d = factor_to_half(block.d[0]);
            store(bytes[0], block.scales, out[0]);
        }
    }

    KANNA_INLINE void store(const uint8_t* c, F scales, Q3_K& b) {
        uint8_t six[16];
        spill_scales(scales, 32, six);
        pack_scales(six, b.scales);
        pack_pairs(c, b.qs);
        for (int l = 0; l < 32; ++l) {
            uint32_t high = 0;
            for (int k = 0; k < 8; ++k) high |= static_cast<uint32_t>(c[32 * k + l] >> 2) << k;
            b.hmask[l] = static_cast<uint8_t>(high);
        }
    }
    KANNA_INLINE void store(const uint8_t* c, F scales, Q6_K& b) {
        uint8_t eight[16];
        spill_scales(scales, 0, eight);
        for (int j = 0; j < 16; ++j) b.scales[j] = static_cast<int8_t>(eight[j]);
        for (int n = 0; n < 2; ++n)
            for (int l = 0; l < 32; ++l) {
                const uint8_t* q = c + 128 * n + l;
                b.ql[64 * n + l] = static_cast<uint8_t>((q[0] & 15) | (q[64] & 15) << 4);
                b.ql[64 * n + 32 + l] = static_cast<uint8_t>((q[32] & 15) | (q[96] & 15) << 4);
                b.qh[32 * n + l] =
                    static_cast<uint8_t>(q[0] >> 4 | (q[32] >> 4) << 2 | (q[64] >> 4) << 4 | (q[96] >> 4) << 6);
            }
    }

    KANNA_INLINE void decode(const Q3_K& b, float* y) {
        uint8_t c[256], six[16];
        unpack_pairs(b.qs, c);
        unpack_scales(b.scales, six);
        const float d = half_to_float(b.d);
        for (int j = 0; j < 16; ++j) {
            const float scale = d * static_cast<float>(static_cast<int>(six[j]) - 32);
            for (int i = 0; i < 16; ++i) {
                const int at = 16 * j + i, high = b.hmask[at % 32] >> (at / 32) & 1;
                y[at] = scale * static_cast<float>(static_cast<int>(c[at]) - (high ? 0 : 4));
            }
        }
    }
    KANNA_INLINE void decode(const Q6_K& b, float* y) {
        const float d = half_to_float(b.d);
        for (int n = 0; n < 2; ++n)
            for (int k = 0; k < 4; ++k)
                for (int l = 0; l < 32; ++l) {
                    const int low = b.ql[64 * n + 32 * (k % 2) + l] >> (4 * (k / 2)) & 15;
                    const int code = (low | (b.qh[32 * n + l] >> (2 * k) & 3) << 4) - 32;
                    const float scale = d * static_cast<float>(b.scales[8 * n + 2 * k + l / 16]);
                    y[128 * n + 32 * k + l] = scale * static_cast<float>(code);
                }
    }
};

using CodecQ4_0 = SmallRay<Q4_0, -8, 7>;
using CodecQ5_0 = SmallRay<Q5_0, -16, 15>;
using CodecQ8_0 = SmallRay<Q8_0, -127, 127>;
using CodecQ4_1 = SmallLine<Q4_1, 15>;
using CodecQ5_1 = SmallLine<Q5_1, 31>;
using CodecQ2_K = SuperLine<Q2_K, 16, 3, 15, 16>;
using CodecQ4_K = SuperLine<Q4_K, 32, 15, 63, 8>;
using CodecQ5_K = SuperLine<Q5_K, 32, 31, 63, 8>;
using CodecQ3_K = SuperRay<Q3_K, -4, 3, -32, 31>;
using CodecQ6_K = SuperRay<Q6_K, -32, 31, -128, 127>;

}  // namespace KANNA_ISA
}  // namespace kanna
