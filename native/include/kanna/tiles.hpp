// A square matrix and many rows: what costs columns² per row goes tile by tile, and sixteens of rows share each tile.
//
// H and the factors M are larger than a cache. Columns are taken TILE at a time: what happens within a tile reads one
// copy of its square; what it means for the other columns is added once, from copies of TILE x CHUNK values. A copy holds
// columns in eights one below another, so that a run over its rows reads memory in order.
#pragma once

#include "kanna/kernels.hpp"
#include "kanna/lanes.hpp"

namespace kanna {
namespace KANNA_ISA {

constexpr int64_t TILE = 256, CHUNK = 256;
constexpr int SIXTEENS = ROWS_TOGETHER / LANES;
static_assert(SIXTEENS == 8, "run_together makes as many");

// Rows [first, last) and as many columns of a matrix; columns [c, c + 8) of them follow each other row by row.
struct Square {
    float* values;
    int64_t first, last;

    // Two rows more than there are: rows of neighbouring eights would else meet in the same lines of a cache.
    static constexpr int64_t EIGHT = (TILE + 2) * 8;
    static constexpr int64_t SIZE = EIGHT * (CHUNK / 8);

    // Where row and column are counted as in the whole matrix; the column is a multiple of 8.
    const float* at(int64_t row, int64_t column) const {
        return values + (column - first) / 8 * EIGHT + (row - first) * 8;
    }
    float operator()(int64_t row, int64_t column) const { return at(row, column & ~int64_t{7})[column & 7]; }
};

// Copies rows [first, last) and columns [from, to) of a matrix of n columns.
static __attribute__((noinline)) void copy_tile(const float* matrix, int64_t n, int64_t first, int64_t last, int64_t from,
                                                int64_t to, float* out) {
    for (int64_t row = first; row < last; ++row) {
        const float* in = matrix + row * n;
        float* place = out + (row - first) * 8;
        for (int64_t j = from; j < to; j += 8, place += Square::EIGHT) __builtin_memcpy(place, in + j, 32);
    }
}

// to[j] -= sum of factors[k] * matrix[k][j], for k in order; `eights` is where the first row has its first eight columns.
// Eight targets stay in registers: counts are whole multiples, since every block is.
static __attribute__((noinline)) void spread(F* to, int64_t count, const float* eights, const F* factors, int64_t terms) {
    for (int64_t j = 0; j < count; j += 8, eights += Square::EIGHT)
        for (int piece = 0; piece < PIECES; ++piece) {
            Piece* at = reinterpret_cast<Piece*>(to + j) + piece;
            const Piece* factor = reinterpret_cast<const Piece*>(factors) + piece;
            Piece sums[8];
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) sums[i] = at[i * PIECES];
            for (int64_t k = 0; k < terms; ++k) {
                const float* row = eights + k * 8;
#pragma GCC unroll 8
                for (int i = 0; i < 8; ++i) sums[i] -= factor[k * PIECES] * row[i];
            }
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) at[i * PIECES] = sums[i];
        }
}

// Working memory of sixteen rows, all [cols] unless said otherwise.
struct Rows {
    F *w, *level, *error, *gradient, *target, *step;
    F *scales, *mins;  // whole numbers [cols / N]
    F *d, *dmin;       // [cols / (N * PER)]
};

// Takes arrays one after another from memory that is aligned to 64.
struct Room {
    F* at;
    F* take(int64_t count) {
        F* here = at;
        at += count;
        return here;
    }
    Rows rows(int64_t cols, int64_t subs, int64_t blocks) {
        return {take(cols), take(cols), take(cols), take(cols),   take(cols),
                take(cols), take(subs), take(subs), take(blocks), take(blocks)};
    }
};

// Bytes that run_together needs, where sixteen rows take `more` beside their arrays.
constexpr int64_t room_together(int64_t cols, int64_t subs, int64_t blocks, int64_t more = 0) {
    const int64_t of_rows = 6 * cols + 2 * subs + 2 * blocks + more;
    return static_cast<int64_t>(sizeof(F)) * (SIXTEENS * of_rows + 2 * Square::SIZE / LANES);
}

// The passes over all columns. `Own` is what an encoding does with sixteen rows (Work in feedback.hpp).
template <class Own>
struct Passes {
    const FeedbackJob& job;
    const Own* own;
    int count;
    float *square, *chunk;

    template <class Visit>
    void each_tile(const float* matrix, const Visit& visit) const {
        for (int64_t first = 0; first < job.cols; first += TILE) {
            const int64_t last = first + TILE < job.cols ? first + TILE : job.cols;
            copy_tile(matrix, job.cols, first, last, first, last, square);
            visit(Square{square, first, last});
        }
    }

    // What the steps of a tile's columns mean for columns [from, to) of an array.
    void add(const float* matrix, const Square& tile, int64_t from, int64_t to, F* Rows::* array) const {
        for (int64_t j = from; j < to; j += CHUNK) {
            const int64_t end = j + CHUNK < to ? j + CHUNK : to;
            copy_tile(matrix, job.cols, tile.first, tile.last, j, end, chunk);
            for (int g = 0; g < count; ++g)
                spread(own[g].r.*array + j, end - j, chunk, own[g].r.step + tile.first, tile.last - tile.first);
        }
    }

    void begin() const {
        for (int g = 0; g < count; ++g) {
            own[g].settle();
            for (int64_t j = 0; j < job.cols; ++j) {
                own[g].r.gradient[j] = F{};
                own[g].r.step[j] = -own[g].r.error[j];
            }
        }
    }

    // e' H e, from half of H.
    void totals(F* sums) const {
        begin();
        for (int g = 0; g < count; ++g) sums[g] = F{};
        each_tile(job.h, [&](const Square& tile) {
            for (int g = 0; g < count; ++g) {
                const Rows& r = own[g].r;
                F within[TILE];
                for (int64_t j = tile.first; j < tile.last; ++j) within[j - tile.first] = F{};
                spread(within, tile.last - tile.first, tile.values, r.step + tile.first, tile.last - tile.first);
                for (int64_t j = tile.first; j < tile.last; ++j)
                    sums[g] += r.error[j] * (2.0f * r.gradient[j] + within[j - tile.first]);
            }
            add(job.h, tile, tile.last, job.cols, &Rows::gradient);
        });
    }

    // gradient = H error
    void measure() const {
        begin();
        for (int64_t first = 0; first < job.cols; first += TILE) {
            const int64_t last = first + TILE < job.cols ? first + TILE : job.cols;
            add(job.h, Square{nullptr, first, last}, 0, job.cols, &Rows::gradient);
        }
    }

    // Every column rounded to make up for the errors before it, in job.order.
    void round() const {
        for (int g = 0; g < count; ++g)
            for (int64_t p = 0; p < job.cols; ++p) own[g].r.target[p] = own[g].r.w[job.order[p]];
        each_tile(job.m, [&](const Square& tile) {
            for (int g = 0; g < count; ++g) own[g].round_tile(tile);
            add(job.m, tile, tile.last, job.cols, &Rows::target);
        });
    }

    // Descent, a tile after another. last: nobody will read the gradient of columns that were passed.
    void improve(bool last) const {
        each_tile(job.h, [&](const Square& tile) {
            for (int g = 0; g < count; ++g) {
                const Rows& r = own[g].r;
                for (int64_t j = tile.first; j < tile.last; ++j) r.target[j] = r.error[j];
                own[g].improve_tile(tile);
                for (int64_t j = tile.first; j < tile.last; ++j) r.step[j] = r.target[j] - r.error[j];
            }
            if (!last) add(job.h, tile, 0, tile.first, &Rows::gradient);
            add(job.h, tile, tile.last, job.cols, &Rows::gradient);
        });
    }

    // Rows [first, last) of the job; lanes past the last row repeat it. A row that does not gain is left as it was.
    void run(int64_t first, int64_t last) const {
        F before[SIXTEENS], least[SIXTEENS], now[SIXTEENS];
        for (int g = 0; g < count; ++g) {
            int64_t rows[LANES];
            for (int k = 0; k < LANES; ++k) rows[k] = first + g * LANES + k < last ? first + g * LANES + k : last - 1;
            own[g].load_rows(rows);
        }
        totals(before);
        for (int g = 0; g < count; ++g) least[g] = before[g];
        for (int pass = 0; pass < job.passes; ++pass) {
            if (job.m) round();
            if (job.rounds > 0) measure();
            for (int round = 0; round < job.rounds; ++round) improve(round + 1 == job.rounds);
            totals(now);
            for (int g = 0; g < count; ++g)
                for (int k = 0; k < LANES && first + g * LANES + k < last; ++k)
                    if (now[g][k] < least[g][k]) {
                        least[g][k] = now[g][k];
                        own[g].store_row(first + g * LANES + k, k);
                    }
        }
        for (int64_t row = first; row < last; ++row) {
            job.errors[2 * row] = before[(row - first) / LANES][(row - first) % LANES];
            job.errors[2 * row + 1] = least[(row - first) / LANES][(row - first) % LANES];
        }
    }
};

// Rows [first, last) of the job, at most ROWS_TOGETHER; make(room) gives what handles sixteen of them.
template <class Own, class Make>
KANNA_INLINE void run_together(const FeedbackJob& job, int64_t first, int64_t last, void* memory, const Make& make) {
    Room room{static_cast<F*>(memory)};
    float* square = reinterpret_cast<float*>(room.take(Square::SIZE / LANES));
    float* chunk = reinterpret_cast<float*>(room.take(Square::SIZE / LANES));
    const Own own[SIXTEENS] = {make(room), make(room), make(room), make(room),
                               make(room), make(room), make(room), make(room)};
    const int count = static_cast<int>((last - first + LANES - 1) / LANES);
    Passes<Own>{job, own, count, square, chunk}.run(first, last);
}

}  // namespace KANNA_ISA
}  // namespace kanna
