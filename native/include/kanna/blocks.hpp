// Blocks as ggml lays them out (ggml-common.h): little-endian, no padding.
#pragma once

#include <cstdint>

namespace kanna {

// Packed: the bytes of a row may begin anywhere.
#pragma pack(push, 1)
struct Q4_0 { static constexpr int values = 32; uint16_t d; uint8_t qs[16]; };
struct Q4_1 { static constexpr int values = 32; uint16_t d, m; uint8_t qs[16]; };
struct Q5_0 { static constexpr int values = 32; uint16_t d; uint8_t qh[4], qs[16]; };
struct Q5_1 { static constexpr int values = 32; uint16_t d, m; uint8_t qh[4], qs[16]; };
struct Q8_0 { static constexpr int values = 32; uint16_t d; int8_t qs[32]; };
struct IQ4_NL { static constexpr int values = 32; uint16_t d; uint8_t qs[16]; };
struct Q2_K { static constexpr int values = 256; uint8_t scales[16], qs[64]; uint16_t d, dmin; };
struct Q3_K { static constexpr int values = 256; uint8_t hmask[32], qs[64], scales[12]; uint16_t d; };
struct Q4_K { static constexpr int values = 256; uint16_t d, dmin; uint8_t scales[12], qs[128]; };
struct Q5_K { static constexpr int values = 256; uint16_t d, dmin; uint8_t scales[12], qh[32], qs[128]; };
struct Q6_K { static constexpr int values = 256; uint8_t ql[128], qh[64]; int8_t scales[16]; uint16_t d; };
struct IQ4_XS { static constexpr int values = 256; uint16_t d, scales_h; uint8_t scales_l[4], qs[128]; };

struct Q2_0 { static constexpr int values = 64; uint16_t d; uint8_t qs[16]; };
struct TQ2_0 { static constexpr int values = 256; uint8_t qs[64]; uint16_t d; };
struct TQ1_0 { static constexpr int values = 256; uint8_t qs[48], qh[4]; uint16_t d; };
#pragma pack(pop)
static_assert(sizeof(Q2_0) == 18 && sizeof(TQ2_0) == 66 && sizeof(TQ1_0) == 54);
static_assert(sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22 && sizeof(Q5_1) == 24);
static_assert(sizeof(Q8_0) == 34 && sizeof(IQ4_NL) == 18 && sizeof(IQ4_XS) == 136);
static_assert(sizeof(Q2_K) == 84 && sizeof(Q3_K) == 110 && sizeof(Q4_K) == 144);
static_assert(sizeof(Q5_K) == 176 && sizeof(Q6_K) == 210);

// The 16 levels of IQ4_NL and IQ4_XS: denser near zero.
constexpr int8_t levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

}  // namespace kanna
