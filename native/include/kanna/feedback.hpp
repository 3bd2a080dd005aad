// Error feedback: codes and scales of a row chosen together, under the second moment H of the inputs.
//
// What counts is e' H e, where e is the error of a row. Columns are rounded one after another, each making up for
// the errors before it (GPTQ, arXiv:2210.17323, in the form of LDLQ: the next target is w_j - sum e_i M_ij with
// M = R_ij / R_jj and H = R R', R upper triangular). Then codes, whole scales and factors take turns at coordinate
// descent under the same H. Sixteen rows go side by side, one per lane, so no result depends on the vector width.
#pragma once

#include "kanna/grids.hpp"

namespace kanna {
namespace KANNA_ISA {

// to[j] -= sum of factors[k] * m[k][j], for k in order. Eight targets stay in registers: counts are whole multiples,
// since every block is.
static __attribute__((noinline)) void spread(F* to, int64_t count, const float* m, int64_t stride, const F* factors,
                                             int64_t terms) {
    for (int64_t j = 0; j < count; j += 8)
        for (int piece = 0; piece < PIECES; ++piece) {
            Piece* at = reinterpret_cast<Piece*>(to + j) + piece;
            const Piece* factor = reinterpret_cast<const Piece*>(factors) + piece;
            Piece sums[8];
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) sums[i] = at[i * PIECES];
            for (int64_t k = 0; k < terms; ++k) {
                const float* row = m + k * stride + j;
#pragma GCC unroll 8
                for (int i = 0; i < 8; ++i) sums[i] -= factor[k * PIECES] * row[i];
            }
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i) at[i * PIECES] = sums[i];
        }
}

constexpr int64_t PANEL = 32;

// Working memory of sixteen rows, all [cols] unless said otherwise.
struct Rows {
    F *w, *level, *error, *gradient, *target, *step;
    F *scales, *mins;  // whole numbers [cols / N]
    F *d, *dmin;       // [cols / (N * PER)]
};

// What a column is rounded to.
struct Rounded {
    F level, value;
};

// What does not depend on the encoding.
struct Work {
    const FeedbackJob& job;
    Rows r;

    // gradient = H error
    void measure() const {
        for (int64_t j = 0; j < job.cols; ++j) {
            r.gradient[j] = F{};
            r.step[j] = -r.error[j];
        }
        for (int64_t k = 0; k < job.cols; k += PANEL) {
            const int64_t terms = job.cols - k < PANEL ? job.cols - k : PANEL;
            spread(r.gradient, job.cols, job.h + k * job.cols, job.cols, r.step + k, terms);
        }
    }

    // e' H e
    F total() const {
        F sum{};
        for (int64_t j = 0; j < job.cols; ++j) sum += r.error[j] * r.gradient[j];
        return sum;
    }

    // The errors of columns [first, first + count) have moved by r.step: bring the gradient up to date.
    void moved(int64_t first, int64_t count) const {
        for (int64_t k = first; k < first + count; ++k) r.step[k] = -r.step[k];
        spread(r.gradient, job.cols, job.h + first * job.cols, job.cols, r.step + first, count);
    }

    // ha = H a over columns [first, first + count); r.target is free outside of rounding.
    void curvature(int64_t first, int64_t count, const F* a, F* ha) const {
        for (int64_t i = 0; i < count; ++i) {
            ha[i] = F{};
            r.target[i] = -a[i];
        }
        spread(ha, count, job.h + first * job.cols + first, job.cols, r.target, count);
    }

    // One pass over the columns in job.order: each is rounded to make up for the errors before it.
    // round(j, wanted) gives the level of column j that is nearest to `wanted`, and its value.
    template <class Round>
    void round_columns(const Round& round) const {
        const int64_t n = job.cols;
        for (int64_t p = 0; p < n; ++p) r.target[p] = r.w[job.order[p]];
        for (int64_t first = 0; first < n; first += PANEL) {
            const int64_t last = first + PANEL < n ? first + PANEL : n;
            for (int64_t p = first; p < last; ++p) {
                const int64_t j = job.order[p];
                const Rounded to = round(j, r.target[p]);
                const F error = to.value - r.w[j];
                r.level[j] = to.level;
                r.error[j] = error;
                r.step[p] = error;
                const float* row = job.m + p * n;
                for (int64_t q = p + 1; q < last; ++q) r.target[q] -= error * row[q];
            }
            spread(r.target + last, n - last, job.m + first * n + last, n, r.step + first, last - first);
        }
    }

    // Coordinate descent over codes, rounded as for round_columns.
    template <class Round>
    void improve_columns(const Round& round) const {
        const int64_t n = job.cols;
        for (int64_t first = 0; first < n; first += PANEL) {
            const int64_t last = first + PANEL < n ? first + PANEL : n;
            F near[PANEL];
            for (int64_t k = first; k < last; ++k) near[k - first] = r.gradient[k];
            for (int64_t j = first; j < last; ++j) {
                const float curvature = job.h[j * n + j];
                const F slope = near[j - first];
                const Rounded to = round(j, r.w[j] + r.error[j] - slope * (1.0f / curvature));
                F move = to.value - r.w[j] - r.error[j];
                const I better = move * (2.0f * slope + move * curvature) < splat(0.0f);
                move = choose(better, move, F{});
                r.level[j] = choose(better, to.level, r.level[j]);
                r.error[j] += move;
                r.step[j] = move;
                const float* row = job.h + j * n;
                for (int64_t k = j + 1; k < last; ++k) near[k - first] += move * row[k];
            }
            moved(first, last - first);
        }
    }

    // Sixteen rows from `first`; lanes past the last row repeat it. A row that does not gain is left as it was.
    template <class Own>
    void run(const Own& own, int64_t first, int64_t last) const {
        int64_t rows[LANES];
        for (int k = 0; k < LANES; ++k) rows[k] = first + k < last ? first + k : last - 1;
        own.load_rows(rows);
        own.settle();
        const F before = total();
        if (job.m) own.round_in_order();
        for (int round = 0; round < job.rounds; ++round) {
            own.settle();
            own.improve();
        }
        own.settle();
        const F after = total();
        for (int k = 0; k < LANES && first + k < last; ++k) {
            const bool better = after[k] < before[k];
            if (better) own.store_row(rows[k], k);
            job.errors[2 * rows[k]] = before[k];
            job.errors[2 * rows[k] + 1] = better ? after[k] : before[k];
        }
    }
};

template <class G>
struct Feedback : Work {
    const G& grid;
    static constexpr int N = G::N, BLOCK = G::N * G::PER;

    F scale_of(int64_t sub) const { return r.d[sub / G::PER] * r.scales[sub]; }
    F offset_of(int64_t sub) const { return G::HAS_MIN ? -(r.dmin[sub / G::PER] * r.mins[sub]) : F{}; }

    Rounded round(int64_t j, F wanted) const {
        const F scale = scale_of(j / N), offset = offset_of(j / N);
        const F level = grid.value((wanted - offset) * reciprocal(scale));
        return {level, scale * level + offset};
    }

    void round_in_order() const {
        round_columns([this](int64_t j, F wanted) { return round(j, wanted); });
    }

    void improve_codes() const {
        improve_columns([this](int64_t j, F wanted) { return round(j, wanted); });
    }

    // Whole scales and minima: the best step each, one sub-block after another.
    void improve_scales() const {
        F a[N], ha[N];
        for (int64_t sub = 0; sub < job.cols / N; ++sub) {
            const int64_t first = sub * N, block = sub / G::PER;
            F moves[N];
            for (int i = 0; i < N; ++i) moves[i] = F{};
            for (int kind = 0; kind < (G::HIGHEST_MIN > 0 ? 2 : 1); ++kind) {
                for (int i = 0; i < N; ++i) a[i] = kind == 0 ? r.d[block] * r.level[first + i] : -r.dmin[block];
                curvature(first, N, a, ha);
                F slope{}, bend{};
                for (int i = 0; i < N; ++i) {
                    slope += a[i] * r.gradient[first + i] + ha[i] * moves[i];
                    bend += a[i] * ha[i];
                }
                F* whole = kind == 0 ? r.scales + sub : r.mins + sub;
                const float low = kind == 0 ? G::BOTTOM : 0, high = kind == 0 ? G::TOP : G::HIGHEST_MIN;
                const F wanted = *whole - slope * reciprocal(bend);
                F step = nearest(clamp(wanted, low, high)) - *whole;
                const I better = step * (2.0f * slope + step * bend) < splat(0.0f);
                step = choose(better, step, F{});
                *whole += step;
                for (int i = 0; i < N; ++i) moves[i] += step * a[i];
            }
            for (int i = 0; i < N; ++i) {
                r.error[first + i] += moves[i];
                r.step[first + i] = moves[i];
            }
            moved(first, N);
        }
    }

    // The half-precision factors of each block, solved for with everything else held.
    void improve_factors() const {
        F a[BLOCK], ha[BLOCK], b[BLOCK], hb[BLOCK];
        for (int64_t block = 0; block < job.cols / BLOCK; ++block) {
            const int64_t first = block * BLOCK;
            F aa{}, ab{}, bb{}, ag{}, bg{};
            for (int i = 0; i < BLOCK; ++i) {
                const int64_t sub = (first + i) / N;
                a[i] = r.scales[sub] * r.level[first + i];
                b[i] = -r.mins[sub];
            }
            curvature(first, BLOCK, a, ha);
            for (int i = 0; i < BLOCK; ++i) {
                aa += a[i] * ha[i];
                ag += a[i] * r.gradient[first + i];
            }
            if (G::FACTORS == 2) {
                curvature(first, BLOCK, b, hb);
                for (int i = 0; i < BLOCK; ++i) {
                    ab += a[i] * hb[i];
                    bb += b[i] * hb[i];
                    bg += b[i] * r.gradient[first + i];
                }
            }
            const F determinant = aa * bb - ab * ab;
            const I both = determinant > aa * bb * 1e-4f;
            const F inverse = splat(1.0f) / choose(both, determinant, splat(1.0f));
            const F d = r.d[block] + choose(both, (ab * bg - bb * ag) * inverse, -ag * reciprocal(aa));
            const F dmin = r.dmin[block] + choose(both, (ab * ag - aa * bg) * inverse, F{});
            F step_d = grid.round(d) - r.d[block], step_m = G::FACTORS == 2 ? grid.round(dmin) - r.dmin[block] : F{};
            const F change = step_d * (2.0f * ag + step_d * aa + 2.0f * step_m * ab) + step_m * (2.0f * bg + step_m * bb);
            I better = change < splat(0.0f);
            if (G::BOTTOM == 0) better &= (d > splat(0.0f)) & (dmin >= splat(0.0f));  // K-types subtract what is positive
            step_d = choose(better, step_d, F{});
            step_m = choose(better, step_m, F{});
            r.d[block] += step_d;
            r.dmin[block] += step_m;
            for (int i = 0; i < BLOCK; ++i) {
                const F move = step_d * a[i] + step_m * b[i];
                r.error[first + i] += move;
                r.step[first + i] = move;
            }
            moved(first, BLOCK);
        }
    }

    // Errors as the file will give them, so that nothing rounded away in between counts.
    void settle() const {
        for (int64_t j = 0; j < job.cols; ++j) {
            const int64_t sub = j / N;
            r.error[j] = scale_of(sub) * r.level[j] + offset_of(sub) - r.w[j];
        }
        measure();
    }

    uint8_t* block_at(int64_t row, int64_t block) const {
        return job.data + row * job.row_bytes + block * grid.bytes();
    }

    void load_rows(const int64_t* rows) const {
        for (int k = 0; k < LANES; ++k) {
            for (int64_t j = 0; j < job.cols; ++j) r.w[j][k] = job.x[rows[k] * job.cols + j];
            for (int64_t block = 0; block < job.cols / BLOCK; ++block) {
                BlockParts p;
                grid.load(block_at(rows[k], block), p);
                r.d[block][k] = p.d;
                r.dmin[block][k] = p.dmin;
                for (int j = 0; j < G::PER; ++j) {
                    r.scales[block * G::PER + j][k] = p.scales[j];
                    r.mins[block * G::PER + j][k] = p.mins[j];
                }
                for (int i = 0; i < BLOCK; ++i) r.level[block * BLOCK + i][k] = grid.level(p.codes[i]);
            }
        }
    }

    void store_row(int64_t row, int k) const {
        for (int64_t block = 0; block < job.cols / BLOCK; ++block) {
            BlockParts p;
            p.d = r.d[block][k];
            p.dmin = r.dmin[block][k];
            for (int j = 0; j < G::PER; ++j) {
                p.scales[j] = static_cast<int32_t>(r.scales[block * G::PER + j][k]);
                p.mins[j] = static_cast<int32_t>(r.mins[block * G::PER + j][k]);
            }
            for (int i = 0; i < BLOCK; ++i) {
                const F code = grid.code(splat(r.level[block * BLOCK + i][k]));
                p.codes[i] = static_cast<uint8_t>(code[0]);
            }
            grid.store(p, block_at(row, block));
        }
    }

    void improve() const {
        if (G::TOP > G::BOTTOM) improve_scales();
        if (G::FACTORS > 0) improve_factors();
        improve_codes();
    }
};

template <class G>
int64_t feedback_memory(int64_t cols) {
    return static_cast<int64_t>(sizeof(F)) * (6 * cols + 2 * (cols / G::N) + 2 * (cols / (G::N * G::PER)));
}

// Rows [first, last) of the job; `memory` has feedback_memory bytes, aligned to 64.
template <class G>
__attribute__((noinline)) void feedback_on(const G& grid, const FeedbackJob& job, int64_t first, int64_t last,
                                           void* memory) {
    F* at = static_cast<F*>(memory);
    auto take = [&at](int64_t count) {
        F* here = at;
        at += count;
        return here;
    };
    const int64_t n = job.cols, subs = n / G::N, blocks = subs / G::PER;
    Rows rows{take(n), take(n), take(n), take(n), take(n), take(n), take(subs), take(subs), take(blocks), take(blocks)};
    const Feedback<G> work{{job, rows}, grid};
    for (int64_t row = first; row < last; row += LANES) work.run(work, row, last);
}

template <class G>
void feedback(const FeedbackJob& job, int64_t first, int64_t last, void* memory) {
    feedback_on(G{}, job, first, last, memory);
}

}  // namespace KANNA_ISA
}  // namespace kanna
