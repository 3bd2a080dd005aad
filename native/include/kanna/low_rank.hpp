// out = x + factor * (left · right), row by row: what a LoRA adapter does to a matrix when it is merged.
//
// Sums go over the rank in order, with no fused multiply-add, so that every instruction set writes the same bits.
#pragma once

#include "kanna/kernels.hpp"
#include "kanna/lanes.hpp"

namespace kanna {
namespace KANNA_ISA {

typedef float UnalignedPiece __attribute__((vector_size(WIDTH), aligned(4), may_alias));

constexpr int BAND = 2 * WIDTH / 4;  // columns that are summed in registers, two of them wide
constexpr int BAND_ROWS = WIDTH == 64 ? 8 : 4;  // times as many rows
static_assert(BAND <= LOW_RANK_BAND);

template <int ROWS>
KANNA_INLINE void low_rank_band(const LowRankJob& job, int64_t row, int64_t column, const float* panel) {
    Piece sums[ROWS][2] = {};
    const float* left = job.left + row * job.rank;
    for (int64_t k = 0; k < job.rank; ++k) {
        const UnalignedPiece* at = reinterpret_cast<const UnalignedPiece*>(panel + k * BAND);
        const Piece along[2] = {at[0], at[1]};
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
            for (int i = 0; i < 2; ++i) sums[r][i] += left[r * job.rank + k] * along[i];
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
        const UnalignedPiece* x = reinterpret_cast<const UnalignedPiece*>(job.x + (row + r) * job.cols + column);
        UnalignedPiece* out = reinterpret_cast<UnalignedPiece*>(job.out + (row + r) * job.cols + column);
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
            const Piece before = x[i];
            out[i] = before + sums[r][i] * job.factor;
        }
    }
}

// `panel`: room for rank * LOW_RANK_BAND values. Rows of `right` are far apart, a band of them lies together in it.
void add_low_rank(const LowRankJob& job, float* panel) {
    int64_t c = 0;
    for (; c + BAND <= job.cols; c += BAND) {
        for (int64_t k = 0; k < job.rank; ++k)
            __builtin_memcpy(panel + k * BAND, job.right + k * job.cols + c, sizeof(float) * BAND);
        int64_t r = 0;
        for (; r + BAND_ROWS <= job.rows; r += BAND_ROWS) low_rank_band<BAND_ROWS>(job, r, c, panel);
        for (; r < job.rows; ++r) low_rank_band<1>(job, r, c, panel);
    }
    for (; c < job.cols; ++c)
        for (int64_t r = 0; r < job.rows; ++r) {
            float sum = 0.0f;
            for (int64_t k = 0; k < job.rank; ++k) sum += job.left[r * job.rank + k] * job.right[k * job.cols + c];
            job.out[r * job.cols + c] = job.x[r * job.cols + c] + sum * job.factor;
        }
}

}  // namespace KANNA_ISA
}  // namespace kanna
