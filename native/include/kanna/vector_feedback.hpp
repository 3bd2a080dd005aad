// Error feedback for codes that stand for vectors: eight values are rounded together, to the best point of a codebook.
//
// As in feedback.hpp, groups of columns in place of columns: each group makes up for the errors before it (block LDLQ,
// arXiv:2402.04396), then sub-blocks and factors take turns at descent under H. The search over a codebook takes the
// metric as diagonal, so it is repeated from where it led, and only steps count that lower the true cost.
#pragma once

#include "kanna/feedback.hpp"
#include "kanna/points.hpp"

namespace kanna {
namespace KANNA_ISA {

constexpr int GROUP = 8, STEPS = 2;

template <class G>
struct VectorFeedback : Work {
    static constexpr int N = G::N, PER = G::PER, BLOCK = 256, CODES = GROUP / G::LENGTH, IN_SUB = N / GROUP;
    I* codes;   // [cols / LENGTH]
    F* shifts;  // [cols / GROUP]

    // A sub-block on trial: what its values would become.
    struct Trial {
        F scale, change, level[N], value[N], shift[IN_SUB];
        I code[IN_SUB * CODES];
    };

    // Lowers (v - t)' A (v - t), where v = scale * level and `slope` is A (v - t), kept up to date. Returns the change.
    // Where a step did not help, the next one is shorter.
    __attribute__((noinline)) F refine(const float* a, F scale, F* slope, F* level, F* value, I* code, F& shift) const {
        F total{}, caution = splat(1.0f);
        for (int step = 0; step < STEPS; ++step) {
            F q[GROUP], b[GROUP], move[GROUP], bend[GROUP];
            for (int i = 0; i < GROUP; ++i) {
                const F curvature = caution * a[i * GROUP + i];
                q[i] = curvature * scale * scale;
                b[i] = scale * (curvature * value[i] - slope[i]);
            }
            Choice<G::LENGTH> found;
            choose_points<G>(q, b, shift, found);
            F change{};
            for (int i = 0; i < GROUP; ++i) {
                move[i] = scale * found.levels[i] - value[i];
                bend[i] = F{};
            }
            for (int k = 0; k < GROUP; ++k)
                for (int i = 0; i < GROUP; ++i) bend[i] += move[k] * a[k * GROUP + i];
            for (int i = 0; i < GROUP; ++i) change += move[i] * (2.0f * slope[i] + bend[i]);
            const I better = change < splat(0.0f);
            total += choose(better, change, F{});
            for (int i = 0; i < GROUP; ++i) {
                slope[i] += choose(better, bend[i], F{});
                level[i] = choose(better, found.levels[i], level[i]);
                value[i] = scale * level[i];
            }
            for (int p = 0; p < CODES; ++p) code[p] = choose(better, found.codes[p], code[p]);
            if (G::SHIFTED) shift = choose(better, found.shift, shift);
            caution = choose(better, caution, 2.0f * caution);
        }
        return total;
    }

    F scale_of(int64_t sub) const { return r.d[sub / PER] * r.scales[sub]; }

    // The metric of the group at place p with the groups after it free to make up: U D U', from the factors.
    static void conditional(const Square& m, int64_t p, float* a) {
        for (int i = 0; i < GROUP; ++i)
            for (int j = 0; j <= i; ++j) {
                float sum = 0;
                for (int q = i; q < GROUP; ++q) {
                    const float diagonal = m(p + q, p + q);
                    sum += (q == i ? 1.0f : m(p + i, p + q)) * (q == j ? 1.0f : m(p + j, p + q)) *
                           diagonal;
                }
                a[i * GROUP + j] = a[j * GROUP + i] = sum;
            }
    }

    // Groups of a tile in job.order: each is rounded to make up for the errors before it.
    void round_tile(const Square& m) const {
        for (int64_t first = m.first; first < m.last; first += PANEL) {
            const int64_t last = first + PANEL < m.last ? first + PANEL : m.last;
            for (int64_t p = first; p < last; p += GROUP) {
                const int64_t j = job.order[p];
                const F scale = scale_of(j / N);
                float a[GROUP * GROUP];
                conditional(m, p, a);
                F aim[GROUP], q[GROUP], b[GROUP], slope[GROUP], value[GROUP];
                for (int i = 0; i < GROUP; ++i) {
                    aim[i] = r.target[p + i];
                    for (int k = 0; k < i; ++k) aim[i] -= (aim[k] - r.w[j + k]) * m(p + k, p + i);
                    const float curvature = a[i * GROUP + i];
                    q[i] = curvature * scale * scale;
                    b[i] = curvature * scale * aim[i];
                }
                Choice<G::LENGTH> found;
                choose_points<G>(q, b, shifts[j / GROUP], found);
                for (int i = 0; i < GROUP; ++i) {
                    value[i] = scale * found.levels[i];
                    slope[i] = F{};
                }
                for (int k = 0; k < GROUP; ++k)
                    for (int i = 0; i < GROUP; ++i) slope[i] += (value[k] - aim[k]) * a[k * GROUP + i];
                if (G::SHIFTED) shifts[j / GROUP] = found.shift;
                refine(a, scale, slope, found.levels, value, found.codes, shifts[j / GROUP]);
                for (int i = 0; i < CODES; ++i) codes[j / G::LENGTH + i] = found.codes[i];
                for (int i = 0; i < GROUP; ++i) {
                    const F error = value[i] - r.w[j + i];
                    r.level[j + i] = found.levels[i];
                    r.error[j + i] = error;
                    r.step[p + i] = error;
                    for (int64_t c = p + GROUP; c < last; ++c) r.target[c] -= error * m(p + i, c);
                }
            }
            if (last < m.last) spread(r.target + last, m.last - last, m.at(first, last), r.step + first, last - first);
        }
    }

    // A sub-block with another scale, its groups chosen anew one after another. flip: shifted the other way.
    __attribute__((noinline)) void attempt(const Square& h, int64_t sub, F scale, bool flip, Trial& t) const {
        const int64_t first = sub * N;
        const F size = r.d[sub / PER] * scale, before = scale_of(sub);
        F slope[N], move[N], bend[N];
        for (int i = 0; i < IN_SUB * CODES; ++i) t.code[i] = codes[first / G::LENGTH + i];
        for (int i = 0; i < IN_SUB; ++i) t.shift[i] = flip ? -shifts[first / GROUP + i] : shifts[first / GROUP + i];
        for (int i = 0; i < N; ++i) {
            t.level[i] = r.level[first + i];
            if (flip) t.level[i] += 2.0f * t.shift[i / GROUP];
            t.value[i] = size * t.level[i];
            move[i] = t.value[i] - before * r.level[first + i];
        }
        curvature(h, first, N, move, bend);
        t.scale = scale;
        t.change = F{};
        for (int i = 0; i < N; ++i) {
            t.change += move[i] * (2.0f * r.gradient[first + i] + bend[i]);
            slope[i] = r.gradient[first + i] + bend[i];
        }
        for (int g = 0; g < IN_SUB; ++g) {
            const int at = g * GROUP;
            F old[GROUP];
            for (int i = 0; i < GROUP; ++i) old[i] = t.value[at + i];
            t.change += refine(h.at(first + at, first + at), size, slope + at, t.level + at, t.value + at,
                               t.code + g * CODES, t.shift[g]);
            for (int k = 0; k < GROUP; ++k) {
                const F moved = t.value[at + k] - old[k];
                for (int i = at + GROUP; i < N; ++i) slope[i] += moved * h(first + at + k, first + i);
            }
        }
    }

    // Descent over sub-blocks: codes as they are scaled, or with the next scale up or down, or shifted the other way.
    void improve_blocks(const Square& h) const {
        for (int64_t sub = h.first / N; sub < h.last / N; ++sub) {
            const int64_t first = sub * N;
            Trial best, t;
            best.change = F{};
            best.scale = r.scales[sub];
            for (int i = 0; i < N; ++i) best.level[i] = r.level[first + i];
            for (int i = 0; i < IN_SUB * CODES; ++i) best.code[i] = codes[first / G::LENGTH + i];
            for (int i = 0; i < IN_SUB; ++i) best.shift[i] = shifts[first / GROUP + i];
            for (int flip = 0; flip < (G::SHARED > 1 ? 2 : 1); ++flip)
                for (int by = -2; by <= 2; by += 2) {
                    attempt(h, sub, clamp(r.scales[sub] + static_cast<float>(by), 1.0f, G::TOP), flip != 0, t);
                    const I better = t.change < best.change;
                    best.change = choose(better, t.change, best.change);
                    best.scale = choose(better, t.scale, best.scale);
                    for (int i = 0; i < N; ++i) best.level[i] = choose(better, t.level[i], best.level[i]);
                    for (int i = 0; i < IN_SUB * CODES; ++i) best.code[i] = choose(better, t.code[i], best.code[i]);
                    for (int i = 0; i < IN_SUB; ++i) best.shift[i] = choose(better, t.shift[i], best.shift[i]);
                }
            const F before = scale_of(sub);
            r.scales[sub] = best.scale;
            const F after = scale_of(sub);
            for (int i = 0; i < N; ++i) {
                const F move = after * best.level[i] - before * r.level[first + i];
                r.level[first + i] = best.level[i];
                r.error[first + i] += move;
                r.step[first + i] = move;
            }
            for (int i = 0; i < IN_SUB * CODES; ++i) codes[first / G::LENGTH + i] = best.code[i];
            for (int i = 0; i < IN_SUB; ++i) shifts[first / GROUP + i] = best.shift[i];
            moved(h, first, N);
        }
    }

    // The factor of each block, solved for with everything else held. G::UNIT of it is what the file holds.
    void improve_factors(const Square& h) const {
        F a[BLOCK], ha[BLOCK];
        for (int64_t block = h.first / BLOCK; block < h.last / BLOCK; ++block) {
            const int64_t first = block * BLOCK;
            F slope{}, bend{};
            for (int i = 0; i < BLOCK; ++i) a[i] = r.scales[(first + i) / N] * r.level[first + i];
            curvature(h, first, BLOCK, a, ha);
            for (int i = 0; i < BLOCK; ++i) {
                bend += a[i] * ha[i];
                slope += a[i] * r.gradient[first + i];
            }
            const F d = round_to_half((r.d[block] - slope * reciprocal(bend)) * (1.0f / G::UNIT)) * G::UNIT;
            F step = d - r.d[block];
            step = choose((step * (2.0f * slope + step * bend) < splat(0.0f)) & (d > splat(0.0f)), step, F{});
            r.d[block] += step;
            for (int i = 0; i < BLOCK; ++i) {
                r.error[first + i] += step * a[i];
                r.step[first + i] = step * a[i];
            }
            moved(h, first, BLOCK);
        }
    }

    // Errors as the file will give them.
    void settle() const {
        for (int64_t j = 0; j < job.cols; ++j) r.error[j] = scale_of(j / N) * r.level[j] - r.w[j];
    }

    using Block = typename G::Type;
    Block* block_at(int64_t row, int64_t block) const {
        return reinterpret_cast<Block*>(job.data + row * job.row_bytes) + block;
    }

    void load_rows(const int64_t* rows) const {
        for (int k = 0; k < LANES; ++k) {
            for (int64_t j = 0; j < job.cols; ++j) r.w[j][k] = job.x[rows[k] * job.cols + j];
            for (int64_t block = 0; block < job.cols / BLOCK; ++block) {
                Vectors v;
                load(*block_at(rows[k], block), v);
                r.d[block][k] = v.d;
                for (int j = 0; j < PER; ++j) r.scales[block * PER + j][k] = static_cast<float>(v.scales[j]);
                for (int i = 0; i < BLOCK / G::LENGTH; ++i) codes[block * (BLOCK / G::LENGTH) + i][k] = v.codes[i];
                for (int i = 0; i < BLOCK / GROUP; ++i)
                    shifts[block * (BLOCK / GROUP) + i][k] = v.flags[i] ? -SHIFT : SHIFT;
                float levels[BLOCK];
                vector_levels<G>(v, levels);
                for (int i = 0; i < BLOCK; ++i) r.level[block * BLOCK + i][k] = levels[i];
            }
        }
    }

    void store_row(int64_t row, int k) const {
        for (int64_t block = 0; block < job.cols / BLOCK; ++block) {
            Vectors v;
            v.d = r.d[block][k];
            for (int j = 0; j < PER; ++j) v.scales[j] = static_cast<int32_t>(r.scales[block * PER + j][k]);
            for (int i = 0; i < BLOCK / G::LENGTH; ++i)
                v.codes[i] = static_cast<uint16_t>(codes[block * (BLOCK / G::LENGTH) + i][k]);
            for (int g = 0; g < BLOCK / GROUP; ++g) {
                uint32_t flags = 0;
                for (int i = 0; i < GROUP; ++i) {
                    const float level = r.level[block * BLOCK + g * GROUP + i][k];
                    flags |= static_cast<uint32_t>(level < 0) << i;
                }
                if (G::SHIFTED) flags = shifts[block * (BLOCK / GROUP) + g][k] < 0;
                v.flags[g] = static_cast<uint8_t>(flags);
            }
            store(v, *block_at(row, block));
        }
    }

    void improve_tile(const Square& h) const {
        improve_factors(h);
        improve_blocks(h);
    }
};

template <class G>
int64_t vector_memory(int64_t cols) {
    return room_together(cols, cols / G::N, cols / 256, cols / G::LENGTH + cols / GROUP);
}

// Rows [first, last) of the job; `memory` has vector_memory bytes, aligned to 64.
template <class G>
void vector_feedback(const FeedbackJob& job, int64_t first, int64_t last, void* memory) {
    const int64_t n = job.cols;
    run_together<VectorFeedback<G>>(job, first, last, memory, [&](Room& room) {
        const Rows rows = room.rows(n, n / G::N, n / 256);
        I* codes = reinterpret_cast<I*>(room.take(n / G::LENGTH));
        return VectorFeedback<G>{{job, rows}, codes, room.take(n / GROUP)};
    });
}

}  // namespace KANNA_ISA
}  // namespace kanna
