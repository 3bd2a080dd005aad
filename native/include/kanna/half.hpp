// Half precision and bfloat16 by integer arithmetic: the same bits on every CPU, with or without hardware for it.
#pragma once

#include <cstdint>
#include <cstring>

namespace kanna {
namespace {

inline uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    // The exponent moves from a bias of 15 to one of 127; the product is exact, and right for subnormals too.
    return float_of(bits_of(float_of(magnitude << 13) * 0x1p112f) | sign);
}

// Rounded to nearest even; beyond 65504 it becomes infinite, as in IEEE 754.
inline uint16_t float_to_half(float value) {
    const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        // Adding one half of the smallest step's scale leaves the rounded subnormal in the low bits.
        const float shifted = float_of(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (bits_of(shifted) - 0x3f000000u));
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// A factor as the file will hold it; too large ones saturate, since an infinite factor would spoil the block.
inline uint16_t factor_to_half(float value) {
    const uint16_t half = float_to_half(value);
    return (half & 0x7fffu) < 0x7c00u ? half : static_cast<uint16_t>((half & 0x8000u) | 0x7bffu);
}

inline float bfloat_to_float(uint16_t value) { return float_of(static_cast<uint32_t>(value) << 16); }

inline uint16_t float_to_bfloat(float value) {
    const uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 64u);
    return static_cast<uint16_t>((bits + (0x7fffu + (bits >> 16 & 1u))) >> 16);
}

}  // namespace
}  // namespace kanna
