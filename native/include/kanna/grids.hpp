// Encodings as grids of values: what error feedback needs to know of each.
//
// N values share a scale, PER of them make a block; Code gives levels. BOTTOM..TOP is the range of whole scales
// (equal: there are none to choose), HIGHEST_MIN that of minima, FACTORS how many half-precision factors may move.
#pragma once

#include "kanna/codecs.hpp"

namespace kanna {

// Packed: the bytes of a row may begin anywhere.
#pragma pack(push, 1)
struct Q1_0 { static constexpr int values = 128; uint16_t d; uint8_t qs[16]; };
struct MXFP4 { static constexpr int values = 32; uint8_t e, qs[16]; };
struct NVFP4 { static constexpr int values = 64; uint8_t scales[4], qs[32]; };
#pragma pack(pop)
static_assert(sizeof(Q1_0) == 18);
static_assert(sizeof(MXFP4) == 17 && sizeof(NVFP4) == 36);

namespace {

inline void load(const Q1_0& b, BlockParts& p) {
    load_single(b.d, p);
    for (int i = 0; i < 128; ++i) p.codes[i] = b.qs[i / 8] >> (i % 8) & 1;
}
inline void store(const BlockParts& p, Q1_0& b) {
    b.d = factor_to_half(p.d);
    for (int i = 0; i < 16; ++i) {
        uint32_t bits = 0;
        for (int k = 0; k < 8; ++k) bits |= static_cast<uint32_t>(p.codes[8 * i + k]) << k;
        b.qs[i] = static_cast<uint8_t>(bits);
    }
}

// E2M1 codes, doubled: the sign is bit 3. In order of value, so that a code counts midpoints below.
constexpr int8_t halves[15] = {-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12};
inline uint8_t from_e2m1(uint8_t code) { return static_cast<uint8_t>(code & 8 ? 7 - (code & 7) : 7 + code); }
inline uint8_t to_e2m1(uint8_t at) { return static_cast<uint8_t>(at < 7 ? 8 | (7 - at) : at - 7); }

inline void load_e2m1(const uint8_t* qs, int count, uint8_t* codes) {
    for (int i = 0; i < count / 2; ++i) {
        codes[i] = from_e2m1(qs[i] & 15);
        codes[i + count / 2] = from_e2m1(qs[i] >> 4);
    }
}
inline void store_e2m1(const uint8_t* codes, int count, uint8_t* qs) {
    for (int i = 0; i < count / 2; ++i)
        qs[i] = static_cast<uint8_t>(to_e2m1(codes[i]) | to_e2m1(codes[i + count / 2]) << 4);
}

inline void load(const MXFP4& b, BlockParts& p) {
    p.d = float_of(b.e < 2 ? 0x00200000u << b.e : static_cast<uint32_t>(b.e - 1) << 23);
    p.scales[0] = 1;
    p.mins[0] = 0;
    load_e2m1(b.qs, 32, p.codes);
}
// The scales stay as they were: only codes are written.
inline void store(const BlockParts& p, MXFP4& b) { store_e2m1(p.codes, 32, b.qs); }

inline void load(const NVFP4& b, BlockParts& p) {
    // A UE4M3 scale is a whole number of 2^-10, at most 448 * 2^9: d carries the unit.
    p.d = 0x1p-10f;
    for (int j = 0; j < 4; ++j) {
        const int exponent = b.scales[j] >> 3 & 15, mantissa = b.scales[j] & 7;
        const int whole = exponent == 0 ? mantissa : (8 + mantissa) << (exponent - 1);
        p.scales[j] = b.scales[j] == 0x7f ? 0 : whole;
        p.mins[j] = 0;
        load_e2m1(b.qs + 8 * j, 16, p.codes + 16 * j);
    }
}
inline void store(const BlockParts& p, NVFP4& b) {
    for (int j = 0; j < 4; ++j) store_e2m1(p.codes + 16 * j, 16, b.qs + 8 * j);
}

}  // namespace

namespace KANNA_ISA {

struct Signs {  // Q1_0
    KANNA_INLINE F value(F x) { return choose(x >= splat(0.0f), splat(1.0f), splat(-1.0f)); }
    KANNA_INLINE F code(F x) { return choose(x >= splat(0.0f), splat(1.0f), splat(0.0f)); }
    KANNA_INLINE float level(int code) { return code ? 1.0f : -1.0f; }
};

struct Halves {  // MXFP4, NVFP4
    KANNA_INLINE F code(F x) {
        F out{};
#pragma GCC unroll 16
        for (int k = 0; k < 14; ++k)
            out += (F)((I)(x > splat(0.5f * (halves[k] + halves[k + 1]))) & (I)splat(1.0f));
        return out;
    }
    KANNA_INLINE F value(F x) {
        F out = splat(halves[0]);
#pragma GCC unroll 16
        for (int k = 0; k < 14; ++k) {
            const float middle = 0.5f * (halves[k] + halves[k + 1]), step = halves[k + 1] - halves[k];
            out += (F)((I)(x > splat(middle)) & (I)splat(step));
        }
        return out;
    }
    KANNA_INLINE float level(int code) { return halves[code]; }
};

template <class Block, int N_, int PER_, class Code_, int BOTTOM_, int TOP_, int HIGHEST_MIN_, int FACTORS_>
struct Grid {
    using Type = Block;
    using Code = Code_;
    static constexpr int N = N_, PER = PER_, BOTTOM = BOTTOM_, TOP = TOP_, HIGHEST_MIN = HIGHEST_MIN_;
    static constexpr int FACTORS = FACTORS_;
    static constexpr bool HAS_MIN = HIGHEST_MIN > 0 || FACTORS == 2;

    static constexpr int64_t bytes() { return sizeof(Block); }
    KANNA_INLINE F value(F x) { return Code::value(x); }
    KANNA_INLINE F code(F x) { return Code::code(x); }
    KANNA_INLINE float level(int code) { return Code::level(code); }
    KANNA_INLINE F round(F x) { return round_to_half(x); }
    static void load(const uint8_t* data, BlockParts& p) { kanna::load(*reinterpret_cast<const Block*>(data), p); }
    static void store(const BlockParts& p, uint8_t* data) { kanna::store(p, *reinterpret_cast<Block*>(data)); }
};

template <class Block, class Code, int FACTORS = 1>
using Single = Grid<Block, Block::values, 1, Code, 1, 1, 0, FACTORS>;

using GridQ4_0 = Single<Q4_0, Whole<-8, 7>>;
using GridQ5_0 = Single<Q5_0, Whole<-16, 15>>;
using GridQ8_0 = Single<Q8_0, Whole<-127, 127>>;
using GridIQ4_NL = Single<IQ4_NL, Levels>;
using GridQ4_1 = Single<Q4_1, Whole<0, 15>, 2>;
using GridQ5_1 = Single<Q5_1, Whole<0, 31>, 2>;
using GridQ2_K = Grid<Q2_K, 16, 16, Whole<0, 3>, 0, 15, 15, 2>;
using GridQ3_K = Grid<Q3_K, 16, 16, Whole<-4, 3>, -32, 31, 0, 1>;
using GridQ4_K = Grid<Q4_K, 32, 8, Whole<0, 15>, 0, 63, 63, 2>;
using GridQ5_K = Grid<Q5_K, 32, 8, Whole<0, 31>, 0, 63, 63, 2>;
using GridQ6_K = Grid<Q6_K, 16, 16, Whole<-32, 31>, -128, 127, 0, 1>;
using GridIQ4_XS = Grid<IQ4_XS, 32, 8, Levels, -32, 31, 0, 1>;
using GridQ2_0 = Single<Q2_0, Whole<-1, 2>>;
using GridQ1_0 = Single<Q1_0, Signs>;
using GridTQ2_0 = Single<TQ2_0, Whole<-1, 1>>;
using GridTQ1_0 = Single<TQ1_0, Whole<-1, 1>>;
using GridMXFP4 = Grid<MXFP4, 32, 1, Halves, 1, 1, 0, 0>;
using GridNVFP4 = Grid<NVFP4, 16, 4, Halves, 1, 1, 0, 0>;

}  // namespace KANNA_ISA
}  // namespace kanna
