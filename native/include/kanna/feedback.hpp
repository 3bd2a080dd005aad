// Error feedback: codes and scales of a row chosen together, under the second moment H of the inputs.
//
// What counts is e' H e, where e is the error of a row. Columns are rounded one after another, each making up for
// the errors before it (GPTQ, arXiv:2210.17323, in the form of LDLQ: the next target is w_j - sum e_i M_ij with
// M = R_ij / R_jj and H = R R', R upper triangular). Then codes, whole scales and factors take turns at coordinate
// descent under the same H. Sixteen rows go side by side, one per lane, so no result depends on the vector width.
#pragma once

#include "kanna/grids.hpp"
#include "kanna/tiles.hpp"

namespace kanna {
namespace KANNA_ISA {

constexpr int64_t PANEL = 32;

// What a column is rounded to.
struct Rounded {
    F level, value;
};

// What does not depend on the encoding.
struct Work {
    const FeedbackJob& job;
    Rows r;

    // The errors of columns [first, first + count) have moved by r.step: bring the gradient of their tile up to date.
    void moved(const Square& h, int64_t first, int64_t count) const {
        for (int64_t k = first; k < first + count; ++k) r.step[k] = -r.step[k];
        spread(r.gradient + h.first, h.last - h.first, h.at(first, h.first), r.step + first, count);
    }

    // ha = H a over columns [first, first + count), at most a tile's.
    static void curvature(const Square& h, int64_t first, int64_t count, const F* a, F* ha) {
        F negative[TILE];
        for (int64_t i = 0; i < count; ++i) {
            ha[i] = F{};
            negative[i] = -a[i];
        }
        spread(ha, count, h.at(first, first), negative, count);
    }

    // Columns of a tile in job.order: each is rounded to make up for the errors before it.
    // round(j, wanted) gives the level of column j that is nearest to `wanted`, and its value.
    template <class Round>
    void round_columns(const Square& m, const Round& round) const {
        for (int64_t first = m.first; first < m.last; first += PANEL) {
            const int64_t last = first + PANEL < m.last ? first + PANEL : m.last;
            for (int64_t p = first; p < last; ++p) {
                const int64_t j = job.order[p];
                const Rounded to = round(j, r.target[p]);
                const F error = to.value - r.w[j];
                r.level[j] = to.level;
                r.error[j] = error;
                r.step[p] = error;
                for (int64_t q = p + 1; q < last; ++q) r.target[q] -= error * m(p, q);
            }
            if (last < m.last) spread(r.target + last, m.last - last, m.at(first, last), r.step + first, last - first);
        }
    }

    // Coordinate descent over the codes of a tile, rounded as for round_columns.
    template <class Round>
    void improve_columns(const Square& h, const Round& round) const {
        for (int64_t first = h.first; first < h.last; first += PANEL) {
            const int64_t last = first + PANEL < h.last ? first + PANEL : h.last;
            F near[PANEL];
            for (int64_t k = first; k < last; ++k) near[k - first] = r.gradient[k];
            for (int64_t j = first; j < last; ++j) {
                const float curvature = h(j, j);
                const F slope = near[j - first];
                const Rounded to = round(j, r.w[j] + r.error[j] - slope * (1.0f / curvature));
                F move = to.value - r.w[j] - r.error[j];
                const I better = move * (2.0f * slope + move * curvature) < splat(0.0f);
                move = choose(better, move, F{});
                r.level[j] = choose(better, to.level, r.level[j]);
                r.error[j] += move;
                r.step[j] = move;
                for (int64_t k = j + 1; k < last; ++k) near[k - first] += move * h(j, k);
            }
            moved(h, first, last - first);
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

    void round_tile(const Square& m) const {
        round_columns(m, [this](int64_t j, F wanted) { return round(j, wanted); });
    }

    // Whole scales and minima: the best step each, one sub-block after another.
    void improve_scales(const Square& h) const {
        F a[N], ha[N];
        for (int64_t sub = h.first / N; sub < h.last / N; ++sub) {
            const int64_t first = sub * N, block = sub / G::PER;
            F moves[N];
            for (int i = 0; i < N; ++i) moves[i] = F{};
            for (int kind = 0; kind < (G::HIGHEST_MIN > 0 ? 2 : 1); ++kind) {
                for (int i = 0; i < N; ++i) a[i] = kind == 0 ? r.d[block] * r.level[first + i] : -r.dmin[block];
                curvature(h, first, N, a, ha);
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
            moved(h, first, N);
        }
    }

    // The half-precision factors of each block, solved for with everything else held.
    void improve_factors(const Square& h) const {
        F a[BLOCK], ha[BLOCK], b[BLOCK], hb[BLOCK];
        for (int64_t block = h.first / BLOCK; block < h.last / BLOCK; ++block) {
            const int64_t first = block * BLOCK;
            F aa{}, ab{}, bb{}, ag{}, bg{};
            for (int i = 0; i < BLOCK; ++i) {
                const int64_t sub = (first + i) / N;
                a[i] = r.scales[sub] * r.level[first + i];
                b[i] = -r.mins[sub];
            }
            curvature(h, first, BLOCK, a, ha);
            for (int i = 0; i < BLOCK; ++i) {
                aa += a[i] * ha[i];
                ag += a[i] * r.gradient[first + i];
            }
            if (G::FACTORS == 2) {
                curvature(h, first, BLOCK, b, hb);
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
            moved(h, first, BLOCK);
        }
    }

    // Errors as the file will give them, so that nothing rounded away in between counts.
    void settle() const {
        for (int64_t j = 0; j < job.cols; ++j) {
            const int64_t sub = j / N;
            r.error[j] = scale_of(sub) * r.level[j] + offset_of(sub) - r.w[j];
        }
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

    void improve_tile(const Square& h) const {
        if (G::TOP > G::BOTTOM) improve_scales(h);
        if (G::FACTORS > 0) improve_factors(h);
        improve_columns(h, [this](int64_t j, F wanted) { return round(j, wanted); });
    }
};

template <class G>
int64_t feedback_memory(int64_t cols) {
    return room_together(cols, cols / G::N, cols / (G::N * G::PER));
}

// Rows [first, last) of the job; `memory` has feedback_memory bytes, aligned to 64.
template <class G>
__attribute__((noinline)) void feedback_on(const G& grid, const FeedbackJob& job, int64_t first, int64_t last,
                                           void* memory) {
    static_assert(TILE % (G::N * G::PER) == 0, "blocks stay within a tile");
    const int64_t subs = job.cols / G::N, blocks = subs / G::PER;
    run_together<Feedback<G>>(job, first, last, memory, [&](Room& room) {
        return Feedback<G>{{job, room.rows(job.cols, subs, blocks)}, grid};
    });
}

template <class G>
void feedback(const FeedbackJob& job, int64_t first, int64_t last, void* memory) {
    feedback_on(G{}, job, first, last, memory);
}

}  // namespace KANNA_ISA
}  // namespace kanna
