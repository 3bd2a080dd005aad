// What every instruction set offers, under one table.
#pragma once

#include <cstdint>

namespace kanna {

// What the magnitude of a value says of its importance, beside the weight of its column.
enum class Weighting : int { uniform = 0, magnitude = 1, square = 2, level_magnitude = 3, level_square = 4 };

struct Job {
    const float* x;         // [blocks * values]
    const float* weights;   // [columns] or null
    int64_t blocks_per_row;
    bool search;
    Weighting weighting;
};

// How scales are stored, where an encoding leaves a choice.
enum class Number : int { half, bfloat, single };

struct Codec {
    const char* name;
    int values, bytes;
    // Encode blocks [first, last) of the job to `out`, where block 0 of the job goes.
    void (*encode)(const Job& job, int64_t first, int64_t last, uint8_t* out);
    void (*decode)(const uint8_t* data, int64_t blocks, float* out);
};

// What a low-rank change does to rows of a matrix (low_rank.hpp): out = x + factor * (left · right).
struct LowRankJob {
    const float *x, *left, *right;  // [rows][cols], [rows][rank], [rank][cols]
    float factor;
    int64_t rows, cols, rank;
    float* out;  // [rows][cols]
};

// Columns that a kernel works on together, at most.
constexpr int64_t LOW_RANK_BAND = 32;

// Error feedback over rows of one matrix (feedback.hpp).
struct FeedbackJob {
    const float* x;        // [rows][cols]
    int64_t cols;
    const float* h;        // [cols][cols], symmetric: second moment of the inputs
    const float* m;        // [cols][cols], row p for the column order[p] (factors.cpp); null: no rounding in order
    const int32_t* order;  // [cols]
    int passes, rounds;    // of feedback, and of coordinate descent in each
    uint8_t* data;         // [rows][row_bytes]: where to begin, and where the better rows go
    int64_t row_bytes;
    float* errors;         // [rows][2]: e' H e before and after
};

// Rows that go through a matrix side by side.
constexpr int64_t ROWS_TOGETHER = 128;

struct GridKernel {
    const char* name;
    int values, bytes;
    int group;                        // columns that are rounded together: neighbours, in order
    int64_t (*memory)(int64_t cols);  // bytes that feedback() needs to work in
    // Of rows [first, last), at most ROWS_TOGETHER.
    void (*feedback)(const FeedbackJob& job, int64_t first, int64_t last, void* memory);
};

template <class T>
struct Table {
    const T* first;
    int count;
};

struct Kernels {
    const char* isa;
    // out[r] = sum over c of x[r][c]^2 w[c], in one order of additions for every instruction set.
    void (*row_powers)(const float* x, int64_t rows, int64_t cols, const float* w, float* out);
    // To the nearest bfloat16, ties to even; a NaN stays one, made quiet.
    void (*to_bfloat16)(const float* x, int64_t count, uint16_t* out);
    // rows[r][c] -= sum over k of factors[r][k] * panel[k * stride + c] for four rows and c < count, for k in order.
    void (*subtract_products)(double* const* rows, const double* const* factors, const double* panel, int64_t stride,
                              int64_t terms, int64_t count);
    // `panel`: room for rank * LOW_RANK_BAND values.
    void (*add_low_rank)(const LowRankJob& job, float* panel);
    Table<Codec> codecs[2];  // of values one by one, and of vectors (IQ1, IQ2, IQ3)
    Table<GridKernel> grids[2];
};

extern const Kernels kernels_baseline, kernels_avx2, kernels_avx512;  // a build may leave the last two out

}  // namespace kanna
