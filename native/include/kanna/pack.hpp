// Codes of a group of blocks to and from ggml's bytes. Codes come as whole numbers 0.. of uint8 [values].
#pragma once

#include "kanna/blocks.hpp"
#include "kanna/half.hpp"

namespace kanna {
namespace {

inline void pack_nibbles(const uint8_t* codes, uint8_t* qs) {
    for (int j = 0; j < 16; ++j) qs[j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}

inline void unpack_nibbles(const uint8_t* qs, uint8_t* codes) {
    for (int j = 0; j < 16; ++j) {
        codes[j] = qs[j] & 15;
        codes[j + 16] = qs[j] >> 4;
    }
}

inline void pack_fifth_bits(const uint8_t* codes, uint8_t* qh) {
    uint32_t bits = 0;
    for (int j = 0; j < 32; ++j) bits |= static_cast<uint32_t>(codes[j] >> 4 & 1) << j;
    std::memcpy(qh, &bits, 4);
}

inline void unpack_fifth_bits(const uint8_t* qh, uint8_t* codes) {
    uint32_t bits;
    std::memcpy(&bits, qh, 4);
    for (int j = 0; j < 32; ++j) codes[j] |= static_cast<uint8_t>((bits >> j & 1) << 4);
}

// Two low bits of 256 codes: each byte holds values 32 apart within its half.
inline void pack_pairs(const uint8_t* codes, uint8_t* qs) {
    for (int n = 0; n < 2; ++n)
        for (int l = 0; l < 32; ++l) {
            const uint8_t* c = codes + 128 * n + l;
            qs[32 * n + l] =
                static_cast<uint8_t>((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
        }
}

inline void unpack_pairs(const uint8_t* qs, uint8_t* codes) {
    for (int n = 0; n < 2; ++n)
        for (int k = 0; k < 4; ++k)
            for (int l = 0; l < 32; ++l) codes[128 * n + 32 * k + l] = qs[32 * n + l] >> (2 * k) & 3;
}

// Eight 6-bit scales and eight 6-bit minima in 12 bytes (Q4_K, Q5_K).
inline void pack_scales_mins(const uint8_t* scales, const uint8_t* mins, uint8_t* out) {
    for (int j = 0; j < 4; ++j) {
        out[j] = static_cast<uint8_t>(scales[j] | (scales[j + 4] >> 4) << 6);
        out[j + 4] = static_cast<uint8_t>(mins[j] | (mins[j + 4] >> 4) << 6);
        out[j + 8] = static_cast<uint8_t>((scales[j + 4] & 15) | (mins[j + 4] & 15) << 4);
    }
}

inline void unpack_scales_mins(const uint8_t* in, uint8_t* scales, uint8_t* mins) {
    for (int j = 0; j < 4; ++j) {
        scales[j] = in[j] & 63;
        mins[j] = in[j + 4] & 63;
        scales[j + 4] = static_cast<uint8_t>((in[j + 8] & 15) | (in[j] >> 6) << 4);
        mins[j + 4] = static_cast<uint8_t>(in[j + 8] >> 4 | (in[j + 4] >> 6) << 4);
    }
}

// Sixteen 6-bit scales in 12 bytes (Q3_K).
inline void pack_scales(const uint8_t* scales, uint8_t* out) {
    for (int j = 0; j < 8; ++j) out[j] = static_cast<uint8_t>((scales[j] & 15) | (scales[j + 8] & 15) << 4);
    for (int j = 0; j < 4; ++j)
        out[j + 8] = static_cast<uint8_t>(scales[j] >> 4 | (scales[j + 4] >> 4) << 2 | (scales[j + 8] >> 4) << 4 |
                                          (scales[j + 12] >> 4) << 6);
}

inline void unpack_scales(const uint8_t* in, uint8_t* scales) {
    for (int j = 0; j < 16; ++j)
        scales[j] = static_cast<uint8_t>((in[j % 8] >> (j < 8 ? 0 : 4) & 15) | (in[8 + j % 4] >> (2 * (j / 4)) & 3) << 4);
}

// Digits 0, 1, 2 of `count` bytes, up to five in each; those of one byte lie `count` values apart. A byte holds a fraction
// of 256, rounded up, so that multiplying by three brings out digit after digit.
inline void pack_thirds(const uint8_t* codes, int count, int digits, uint8_t* qs) {
    for (int m = 0; m < count; ++m) {
        uint32_t number = 0;
        for (int n = 0; n < 5; ++n) number = 3 * number + (n < digits ? codes[n * count + m] : 0);
        qs[m] = static_cast<uint8_t>((number * 256 + 242) / 243);
    }
}

inline void unpack_thirds(const uint8_t* qs, int count, int digits, uint8_t* codes) {
    for (int m = 0; m < count; ++m) {
        uint32_t fraction = qs[m];
        for (int n = 0; n < digits; ++n, fraction = fraction * 3 & 255)
            codes[n * count + m] = static_cast<uint8_t>(fraction * 3 >> 8);
    }
}

}  // namespace
}  // namespace kanna
