// A block of a file taken apart: factors, whole scales and minima, and codes 0.. in the order of the values.
//
// What a value is: d * scales[j] * level(code) - dmin * mins[j], where j is its sub-block and level() belongs to the
// encoding. load() and store() are the only places that know ggml's layouts (ggml-common.h, ggml-quants.c).
#pragma once

#include "kanna/pack.hpp"

namespace kanna {

struct BlockParts {
    float d = 0, dmin = 0;
    int32_t scales[16], mins[16];
    uint8_t codes[256];
};

namespace {

inline void load_factors(uint16_t d, uint16_t dmin, BlockParts& p) {
    p.d = half_to_float(d);
    p.dmin = half_to_float(dmin);
}

// Encodings of one factor per block: the sub-block is the block.
inline void load_single(uint16_t d, BlockParts& p) {
    p.d = half_to_float(d);
    p.scales[0] = 1;
    p.mins[0] = 0;
}

// A minimum that is added, not subtracted.
inline void load_line(uint16_t d, uint16_t m, BlockParts& p) {
    load_single(d, p);
    p.dmin = -half_to_float(m);
    p.mins[0] = 1;
}

inline void load(const Q4_0& b, BlockParts& p) {
    load_single(b.d, p);
    unpack_nibbles(b.qs, p.codes);
}
inline void store(const BlockParts& p, Q4_0& b) {
    b.d = factor_to_half(p.d);
    pack_nibbles(p.codes, b.qs);
}

inline void load(const Q5_0& b, BlockParts& p) {
    load_single(b.d, p);
    unpack_nibbles(b.qs, p.codes);
    unpack_fifth_bits(b.qh, p.codes);
}
inline void store(const BlockParts& p, Q5_0& b) {
    b.d = factor_to_half(p.d);
    pack_nibbles(p.codes, b.qs);
    pack_fifth_bits(p.codes, b.qh);
}

inline void load(const Q8_0& b, BlockParts& p) {
    load_single(b.d, p);
    for (int j = 0; j < 32; ++j) p.codes[j] = static_cast<uint8_t>(b.qs[j] + 128);
}
inline void store(const BlockParts& p, Q8_0& b) {
    b.d = factor_to_half(p.d);
    for (int j = 0; j < 32; ++j) b.qs[j] = static_cast<int8_t>(p.codes[j] - 128);
}

inline void load(const Q4_1& b, BlockParts& p) {
    load_line(b.d, b.m, p);
    unpack_nibbles(b.qs, p.codes);
}
inline void store(const BlockParts& p, Q4_1& b) {
    b.d = factor_to_half(p.d);
    b.m = factor_to_half(-p.dmin);
    pack_nibbles(p.codes, b.qs);
}

inline void load(const Q5_1& b, BlockParts& p) {
    load_line(b.d, b.m, p);
    unpack_nibbles(b.qs, p.codes);
    unpack_fifth_bits(b.qh, p.codes);
}
inline void store(const BlockParts& p, Q5_1& b) {
    b.d = factor_to_half(p.d);
    b.m = factor_to_half(-p.dmin);
    pack_nibbles(p.codes, b.qs);
    pack_fifth_bits(p.codes, b.qh);
}

inline void load(const IQ4_NL& b, BlockParts& p) {
    load_single(b.d, p);
    unpack_nibbles(b.qs, p.codes);
}
inline void store(const BlockParts& p, IQ4_NL& b) {
    b.d = factor_to_half(p.d);
    pack_nibbles(p.codes, b.qs);
}

inline void load(const IQ4_XS& b, BlockParts& p) {
    load_factors(b.d, 0, p);
    for (int j = 0; j < 8; ++j) {
        p.scales[j] = ((b.scales_l[j / 2] >> (4 * (j % 2)) & 15) | (b.scales_h >> (2 * j) & 3) << 4) - 32;
        p.mins[j] = 0;
        unpack_nibbles(b.qs + 16 * j, p.codes + 32 * j);
    }
}
inline void store(const BlockParts& p, IQ4_XS& b) {
    b.d = factor_to_half(p.d);
    uint32_t high = 0;
    uint8_t low[8];
    for (int j = 0; j < 8; ++j) {
        const int s = p.scales[j] + 32;
        high |= static_cast<uint32_t>(s >> 4) << (2 * j);
        low[j] = static_cast<uint8_t>(s & 15);
        pack_nibbles(p.codes + 32 * j, b.qs + 16 * j);
    }
    b.scales_h = static_cast<uint16_t>(high);
    for (int j = 0; j < 4; ++j) b.scales_l[j] = static_cast<uint8_t>(low[2 * j] | low[2 * j + 1] << 4);
}

inline void load(const Q2_K& b, BlockParts& p) {
    load_factors(b.d, b.dmin, p);
    for (int j = 0; j < 16; ++j) {
        p.scales[j] = b.scales[j] & 15;
        p.mins[j] = b.scales[j] >> 4;
    }
    unpack_pairs(b.qs, p.codes);
}
inline void store(const BlockParts& p, Q2_K& b) {
    b.d = factor_to_half(p.d);
    b.dmin = factor_to_half(p.dmin);
    for (int j = 0; j < 16; ++j) b.scales[j] = static_cast<uint8_t>(p.scales[j] | p.mins[j] << 4);
    pack_pairs(p.codes, b.qs);
}

inline void load(const Q3_K& b, BlockParts& p) {
    load_factors(b.d, 0, p);
    uint8_t six[16];
    unpack_scales(b.scales, six);
    for (int j = 0; j < 16; ++j) {
        p.scales[j] = six[j] - 32;
        p.mins[j] = 0;
    }
    unpack_pairs(b.qs, p.codes);
    for (int i = 0; i < 256; ++i) p.codes[i] |= static_cast<uint8_t>((b.hmask[i % 32] >> (i / 32) & 1) << 2);
}
inline void store(const BlockParts& p, Q3_K& b) {
    b.d = factor_to_half(p.d);
    uint8_t six[16];
    for (int j = 0; j < 16; ++j) six[j] = static_cast<uint8_t>(p.scales[j] + 32);
    pack_scales(six, b.scales);
    pack_pairs(p.codes, b.qs);
    for (int l = 0; l < 32; ++l) {
        uint32_t high = 0;
        for (int k = 0; k < 8; ++k) high |= static_cast<uint32_t>(p.codes[32 * k + l] >> 2) << k;
        b.hmask[l] = static_cast<uint8_t>(high);
    }
}

inline void load_six(const uint8_t* scales, BlockParts& p) {
    uint8_t s[8], m[8];
    unpack_scales_mins(scales, s, m);
    for (int j = 0; j < 8; ++j) {
        p.scales[j] = s[j];
        p.mins[j] = m[j];
    }
}
inline void store_six(const BlockParts& p, uint8_t* out) {
    uint8_t s[8], m[8];
    for (int j = 0; j < 8; ++j) {
        s[j] = static_cast<uint8_t>(p.scales[j]);
        m[j] = static_cast<uint8_t>(p.mins[j]);
    }
    pack_scales_mins(s, m, out);
}
// Two runs of 32 codes share the nibbles of 32 bytes.
inline void load_runs(const uint8_t* qs, uint8_t* codes) {
    for (int j = 0; j < 8; ++j)
        for (int l = 0; l < 32; ++l) codes[32 * j + l] = qs[32 * (j / 2) + l] >> (4 * (j % 2)) & 15;
}
inline void store_runs(const uint8_t* c, uint8_t* qs) {
    for (int j = 0; j < 4; ++j)
        for (int l = 0; l < 32; ++l)
            qs[32 * j + l] = static_cast<uint8_t>((c[64 * j + l] & 15) | (c[64 * j + 32 + l] & 15) << 4);
}

inline void load(const Q4_K& b, BlockParts& p) {
    load_factors(b.d, b.dmin, p);
    load_six(b.scales, p);
    load_runs(b.qs, p.codes);
}
inline void store(const BlockParts& p, Q4_K& b) {
    b.d = factor_to_half(p.d);
    b.dmin = factor_to_half(p.dmin);
    store_six(p, b.scales);
    store_runs(p.codes, b.qs);
}

inline void load(const Q5_K& b, BlockParts& p) {
    load_factors(b.d, b.dmin, p);
    load_six(b.scales, p);
    load_runs(b.qs, p.codes);
    for (int i = 0; i < 256; ++i) p.codes[i] |= static_cast<uint8_t>((b.qh[i % 32] >> (i / 32) & 1) << 4);
}
inline void store(const BlockParts& p, Q5_K& b) {
    b.d = factor_to_half(p.d);
    b.dmin = factor_to_half(p.dmin);
    store_six(p, b.scales);
    store_runs(p.codes, b.qs);
    for (int l = 0; l < 32; ++l) {
        uint32_t high = 0;
        for (int j = 0; j < 8; ++j) high |= static_cast<uint32_t>(p.codes[32 * j + l] >> 4) << j;
        b.qh[l] = static_cast<uint8_t>(high);
    }
}

inline void load(const Q6_K& b, BlockParts& p) {
    load_factors(b.d, 0, p);
    for (int j = 0; j < 16; ++j) {
        p.scales[j] = b.scales[j];
        p.mins[j] = 0;
    }
    for (int n = 0; n < 2; ++n)
        for (int k = 0; k < 4; ++k)
            for (int l = 0; l < 32; ++l) {
                const int low = b.ql[64 * n + 32 * (k % 2) + l] >> (4 * (k / 2)) & 15;
                p.codes[128 * n + 32 * k + l] = static_cast<uint8_t>(low | (b.qh[32 * n + l] >> (2 * k) & 3) << 4);
            }
}
inline void store(const BlockParts& p, Q6_K& b) {
    b.d = factor_to_half(p.d);
    for (int j = 0; j < 16; ++j) b.scales[j] = static_cast<int8_t>(p.scales[j]);
    for (int n = 0; n < 2; ++n)
        for (int l = 0; l < 32; ++l) {
            const uint8_t* q = p.codes + 128 * n + l;
            b.ql[64 * n + l] = static_cast<uint8_t>((q[0] & 15) | (q[64] & 15) << 4);
            b.ql[64 * n + 32 + l] = static_cast<uint8_t>((q[32] & 15) | (q[96] & 15) << 4);
            b.qh[32 * n + l] =
                static_cast<uint8_t>(q[0] >> 4 | (q[32] >> 4) << 2 | (q[64] >> 4) << 4 | (q[96] >> 4) << 6);
        }
}

inline void load(const Q2_0& b, BlockParts& p) {
    load_single(b.d, p);
    for (int i = 0; i < 64; ++i) p.codes[i] = b.qs[i / 4] >> (2 * (i % 4)) & 3;
}

inline void store(const BlockParts& p, Q2_0& b) {
    b.d = factor_to_half(p.d);
    for (int i = 0; i < 16; ++i) {
        const uint8_t* c = p.codes + 4 * i;
        b.qs[i] = static_cast<uint8_t>(c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6);
    }
}

inline void load(const TQ2_0& b, BlockParts& p) {
    load_single(b.d, p);
    unpack_pairs(b.qs, p.codes);
}

inline void store(const BlockParts& p, TQ2_0& b) {
    b.d = factor_to_half(p.d);
    pack_pairs(p.codes, b.qs);
}

inline void load(const TQ1_0& b, BlockParts& p) {
    load_single(b.d, p);
    unpack_thirds(b.qs, 32, 5, p.codes);
    unpack_thirds(b.qs + 32, 16, 5, p.codes + 160);
    unpack_thirds(b.qh, 4, 4, p.codes + 240);
}

inline void store(const BlockParts& p, TQ1_0& b) {
    b.d = factor_to_half(p.d);
    pack_thirds(p.codes, 32, 5, b.qs);
    pack_thirds(p.codes + 160, 16, 5, b.qs + 32);
    pack_thirds(p.codes + 240, 4, 4, b.qh);
}

}  // namespace
}  // namespace kanna
