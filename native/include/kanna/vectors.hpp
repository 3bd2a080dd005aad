// Blocks of the vector encodings taken apart: a factor, whole scales, and codes that stand for vectors of levels.
//
// What a value is: d * scales[j] * level, where j is its sub-block and the level comes from a codebook, with a sign of
// its own (IQ2, IQ3) or shifted by an eighth up or down (IQ1). Scales are odd: ggml writes d * (2 s + 1), d * (s + 1/2)
// / 2 or d * (s + 1/2) / 4, and d carries the power of two. load() and store() are the only places that know ggml's
// layouts (ggml-common.h).
#pragma once

#include "kanna/codebooks.hpp"
#include "kanna/half.hpp"

namespace kanna {

// Packed: the bytes of a row may begin anywhere.
#pragma pack(push, 1)
struct IQ2_XXS { static constexpr int values = 256; uint16_t d; uint8_t groups[8][8]; };
struct IQ2_XS { static constexpr int values = 256; uint16_t d, qs[32]; uint8_t scales[8]; };
struct IQ2_S { static constexpr int values = 256; uint16_t d; uint8_t qs[32], signs[32], qh[8], scales[8]; };
struct IQ3_XXS { static constexpr int values = 256; uint16_t d; uint8_t qs[64], groups[8][4]; };
struct IQ3_S { static constexpr int values = 256; uint16_t d; uint8_t qs[64], qh[8], signs[32], scales[4]; };
struct IQ1_S { static constexpr int values = 256; uint16_t d; uint8_t qs[32]; uint16_t qh[8]; };
struct IQ1_M { static constexpr int values = 256; uint8_t qs[32], qh[16]; uint16_t scales[4]; };
#pragma pack(pop)
static_assert(sizeof(IQ2_XXS) == 66 && sizeof(IQ2_XS) == 74 && sizeof(IQ2_S) == 82);
static_assert(sizeof(IQ3_XXS) == 98 && sizeof(IQ3_S) == 110);
static_assert(sizeof(IQ1_S) == 50 && sizeof(IQ1_M) == 56);

struct Vectors {
    float d = 0;
    int32_t scales[16];   // 1, 3, 5 ..
    uint16_t codes[64];   // one for each 8 values, or for each 4
    uint8_t flags[32];    // of each 8 values: bits say which are negative; IQ1: 1 when they are shifted down
};

namespace {

// Seven signs are written, and the eighth is such that the number of negative ones is even.
inline uint8_t with_parity(uint32_t seven) {
    const uint32_t folded = seven ^ seven >> 4, two = folded ^ folded >> 2;
    return static_cast<uint8_t>(seven | ((two ^ two >> 1) & 1) << 7);
}

inline uint32_t word_of(const uint8_t* at) {
    uint32_t word;
    std::memcpy(&word, at, 4);
    return word;
}

// Four times seven signs, and a scale of four bits above them.
inline void load_signs_scale(uint32_t word, uint8_t* flags, int32_t& scale) {
    for (int i = 0; i < 4; ++i) flags[i] = with_parity(word >> (7 * i) & 127);
    scale = static_cast<int32_t>(2 * (word >> 28) + 1);
}
inline uint32_t store_signs_scale(const uint8_t* flags, int32_t scale) {
    uint32_t word = static_cast<uint32_t>(scale >> 1) << 28;
    for (int i = 0; i < 4; ++i) word |= static_cast<uint32_t>(flags[i] & 127) << (7 * i);
    return word;
}

inline void load_scales(const uint8_t* nibbles, int count, int32_t* scales) {
    for (int j = 0; j < count; ++j) scales[j] = 2 * (nibbles[j / 2] >> (4 * (j % 2)) & 15) + 1;
}
inline void store_scales(const int32_t* scales, int count, uint8_t* nibbles) {
    for (int j = 0; j < count / 2; ++j)
        nibbles[j] = static_cast<uint8_t>(scales[2 * j] >> 1 | (scales[2 * j + 1] >> 1) << 4);
}

inline void load(const IQ2_XXS& b, Vectors& v) {
    v.d = half_to_float(b.d) * 0.125f;
    for (int j = 0; j < 8; ++j) {
        for (int i = 0; i < 4; ++i) v.codes[4 * j + i] = b.groups[j][i];
        load_signs_scale(word_of(b.groups[j] + 4), v.flags + 4 * j, v.scales[j]);
    }
}
inline void store(const Vectors& v, IQ2_XXS& b) {
    b.d = factor_to_half(v.d * 8.0f);
    for (int j = 0; j < 8; ++j) {
        for (int i = 0; i < 4; ++i) b.groups[j][i] = static_cast<uint8_t>(v.codes[4 * j + i]);
        const uint32_t word = store_signs_scale(v.flags + 4 * j, v.scales[j]);
        std::memcpy(b.groups[j] + 4, &word, 4);
    }
}

inline void load(const IQ2_XS& b, Vectors& v) {
    v.d = half_to_float(b.d) * 0.125f;
    load_scales(b.scales, 16, v.scales);
    for (int i = 0; i < 32; ++i) {
        v.codes[i] = b.qs[i] & 511;
        v.flags[i] = with_parity(b.qs[i] >> 9);
    }
}
inline void store(const Vectors& v, IQ2_XS& b) {
    b.d = factor_to_half(v.d * 8.0f);
    store_scales(v.scales, 16, b.scales);
    for (int i = 0; i < 32; ++i) b.qs[i] = static_cast<uint16_t>(v.codes[i] | (v.flags[i] & 127) << 9);
}

inline void load(const IQ2_S& b, Vectors& v) {
    v.d = half_to_float(b.d) * 0.125f;
    load_scales(b.scales, 16, v.scales);
    for (int i = 0; i < 32; ++i) {
        v.codes[i] = static_cast<uint16_t>(b.qs[i] | (b.qh[i / 4] >> (2 * (i % 4)) & 3) << 8);
        v.flags[i] = b.signs[i];
    }
}
inline void store(const Vectors& v, IQ2_S& b) {
    b.d = factor_to_half(v.d * 8.0f);
    store_scales(v.scales, 16, b.scales);
    for (int j = 0; j < 8; ++j) {
        uint32_t high = 0;
        for (int i = 0; i < 4; ++i) high |= static_cast<uint32_t>(v.codes[4 * j + i] >> 8) << (2 * i);
        b.qh[j] = static_cast<uint8_t>(high);
    }
    for (int i = 0; i < 32; ++i) {
        b.qs[i] = static_cast<uint8_t>(v.codes[i]);
        b.signs[i] = v.flags[i];
    }
}

inline void load(const IQ3_XXS& b, Vectors& v) {
    v.d = half_to_float(b.d) * 0.25f;
    for (int i = 0; i < 64; ++i) v.codes[i] = b.qs[i];
    for (int j = 0; j < 8; ++j) load_signs_scale(word_of(b.groups[j]), v.flags + 4 * j, v.scales[j]);
}
inline void store(const Vectors& v, IQ3_XXS& b) {
    b.d = factor_to_half(v.d * 4.0f);
    for (int i = 0; i < 64; ++i) b.qs[i] = static_cast<uint8_t>(v.codes[i]);
    for (int j = 0; j < 8; ++j) {
        const uint32_t word = store_signs_scale(v.flags + 4 * j, v.scales[j]);
        std::memcpy(b.groups[j], &word, 4);
    }
}

inline void load(const IQ3_S& b, Vectors& v) {
    v.d = half_to_float(b.d);
    load_scales(b.scales, 8, v.scales);
    for (int i = 0; i < 64; ++i) v.codes[i] = static_cast<uint16_t>(b.qs[i] | (b.qh[i / 8] >> (i % 8) & 1) << 8);
    for (int i = 0; i < 32; ++i) v.flags[i] = b.signs[i];
}
inline void store(const Vectors& v, IQ3_S& b) {
    b.d = factor_to_half(v.d);
    store_scales(v.scales, 8, b.scales);
    for (int j = 0; j < 8; ++j) {
        uint32_t high = 0;
        for (int i = 0; i < 8; ++i) high |= static_cast<uint32_t>(v.codes[8 * j + i] >> 8) << i;
        b.qh[j] = static_cast<uint8_t>(high);
    }
    for (int i = 0; i < 64; ++i) b.qs[i] = static_cast<uint8_t>(v.codes[i]);
    for (int i = 0; i < 32; ++i) b.signs[i] = v.flags[i];
}

inline void load(const IQ1_S& b, Vectors& v) {
    v.d = half_to_float(b.d);
    for (int j = 0; j < 8; ++j) {
        v.scales[j] = 2 * (b.qh[j] >> 12 & 7) + 1;
        for (int i = 0; i < 4; ++i) {
            v.codes[4 * j + i] = static_cast<uint16_t>(b.qs[4 * j + i] | (b.qh[j] >> (3 * i) & 7) << 8);
            v.flags[4 * j + i] = static_cast<uint8_t>(b.qh[j] >> 15);
        }
    }
}
inline void store(const Vectors& v, IQ1_S& b) {
    b.d = factor_to_half(v.d);
    for (int j = 0; j < 8; ++j) {
        uint32_t word = static_cast<uint32_t>(v.scales[j] >> 1) << 12 | static_cast<uint32_t>(v.flags[4 * j]) << 15;
        for (int i = 0; i < 4; ++i) {
            b.qs[4 * j + i] = static_cast<uint8_t>(v.codes[4 * j + i]);
            word |= static_cast<uint32_t>(v.codes[4 * j + i] >> 8) << (3 * i);
        }
        b.qh[j] = static_cast<uint16_t>(word);
    }
}

// The factor is spread over the highest bits of the four words of scales.
inline void load(const IQ1_M& b, Vectors& v) {
    uint32_t d = 0;
    for (int i = 0; i < 4; ++i) d |= static_cast<uint32_t>(b.scales[i] >> 12) << (4 * i);
    v.d = half_to_float(static_cast<uint16_t>(d));
    for (int j = 0; j < 16; ++j) v.scales[j] = 2 * (b.scales[j / 4] >> (3 * (j % 4)) & 7) + 1;
    for (int i = 0; i < 32; ++i) {
        const int four = b.qh[i / 2] >> (4 * (i % 2)) & 15;
        v.codes[i] = static_cast<uint16_t>(b.qs[i] | (four & 7) << 8);
        v.flags[i] = static_cast<uint8_t>(four >> 3);
    }
}
inline void store(const Vectors& v, IQ1_M& b) {
    const uint32_t d = factor_to_half(v.d);
    for (int i = 0; i < 4; ++i) {
        uint32_t word = (d >> (4 * i) & 15) << 12;
        for (int j = 0; j < 4; ++j) word |= static_cast<uint32_t>(v.scales[4 * i + j] >> 1) << (3 * j);
        b.scales[i] = static_cast<uint16_t>(word);
    }
    for (int i = 0; i < 16; ++i) {
        uint32_t two = 0;
        for (int k = 0; k < 2; ++k)
            two |= static_cast<uint32_t>(v.codes[2 * i + k] >> 8 | v.flags[2 * i + k] << 3) << (4 * k);
        b.qh[i] = static_cast<uint8_t>(two);
    }
    for (int i = 0; i < 32; ++i) b.qs[i] = static_cast<uint8_t>(v.codes[i]);
}

}  // namespace
}  // namespace kanna
