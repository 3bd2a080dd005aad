// IQ1, IQ2 and IQ3 by weighted least squares: scales of sub-blocks, then a factor for all of a block, then codes.
#pragma once

#include "kanna/factor.hpp"
#include "kanna/points.hpp"

namespace kanna {
namespace KANNA_ISA {

KANNA_INLINE F nearest_odd(F x, float top) {
    return clamp(2.0f * nearest((clamp(x, 1.0f, top) - 1.0f) * 0.5f) + 1.0f, 1.0f, top);
}

// A factor, in whole `unit`s of half precision, whose odd multiples up to `top` are close to the scales.
template <int PER>
KANNA_SHARED F odd_factor(F scales, F importance, float top, float unit) {
    const F peak = group_peaks<PER>(scales);
    F best{}, least = splat(HUGE_ERROR);
    for (int guess = -4; guess <= 4; ++guess) {
        const float end = top * (1.0f + 0.03f * static_cast<float>(guess));
        const F d = round_to_half(peak * (1.0f / (end * unit))) * unit;
        const F off = d * nearest_odd(scales * reciprocal(d), top) - scales;
        const F cost = group_sums<PER>(importance * off * off);
        const I better = cost < least;
        least = choose(better, cost, least);
        best = choose(better, d, best);
    }
    return best;
}

template <class G>
struct VectorCodec {
    static constexpr int N = G::N, PER = G::PER, IN_SUB = N / 8, CODES = 8 / G::LENGTH;
    using Type = typename G::Type;

    // A sub-block at some scale: its codes, and sums of a weighted fit of the values by the levels.
    struct Fit {
        F error, xl, ll;
        Choice<G::LENGTH> groups[IN_SUB];
    };

    static __attribute__((noinline)) void fit_shifted(const F* x, const F* w, F scale, F shift, Fit& fit) {
        fit.error = fit.xl = fit.ll = F{};
        for (int g = 0; g < IN_SUB; ++g) {
            F q[8], b[8];
            for (int i = 0; i < 8; ++i) {
                q[i] = w[8 * g + i] * scale * scale;
                b[i] = w[8 * g + i] * scale * x[8 * g + i];
            }
            choose_points<G>(q, b, shift, fit.groups[g]);
            for (int i = 0; i < 8; ++i) {
                const F level = fit.groups[g].levels[i], off = scale * level - x[8 * g + i], wl = w[8 * g + i] * level;
                fit.error += w[8 * g + i] * off * off;
                fit.xl += wl * x[8 * g + i];
                fit.ll += wl * level;
            }
        }
    }

    KANNA_SHARED void replace(I better, const Fit& by, Fit& fit) {
        fit.error = choose(better, by.error, fit.error);
        fit.xl = choose(better, by.xl, fit.xl);
        fit.ll = choose(better, by.ll, fit.ll);
        for (int g = 0; g < IN_SUB; ++g) {
            for (int i = 0; i < 8; ++i)
                fit.groups[g].levels[i] = choose(better, by.groups[g].levels[i], fit.groups[g].levels[i]);
            for (int p = 0; p < CODES; ++p)
                fit.groups[g].codes[p] = choose(better, by.groups[g].codes[p], fit.groups[g].codes[p]);
            if (G::SHIFTED) fit.groups[g].shift = choose(better, by.groups[g].shift, fit.groups[g].shift);
        }
    }

    static __attribute__((noinline)) void fit_at(const F* x, const F* w, F scale, Fit& fit) {
        fit_shifted(x, w, scale, splat(SHIFT), fit);
        if constexpr (G::SHARED > 1) {
            Fit down;
            fit_shifted(x, w, scale, splat(-SHIFT), down);
            replace(down.error < fit.error, down, fit);
        }
    }

    // The scale of a sub-block that leaves the least error when it is solved for with the codes held.
    KANNA_SHARED F fit_scale(const F* x, const F* w, Fit& fit, F& importance) {
        F peak{}, power{};
        for (int i = 0; i < N; ++i) {
            peak = maximum(peak, magnitude(x[i]));
            power += w[i] * x[i] * x[i];
        }
        F best{}, least = splat(HUGE_ERROR);
        importance = F{};
        F scale{};
        // The first guess is for values of one magnitude; the last one begins where the best one ended.
        for (int guess = G::SHIFTED ? 0 : -1; guess <= G::GUESSES; ++guess) {
            const float step = (G::LAST_END - G::FIRST_END) / (G::GUESSES - 1);
            const float end = guess < 0 ? G::level(0) : G::FIRST_END + step * static_cast<float>(guess);
            scale = guess < G::GUESSES ? peak * (1.0f / end) : best;
            fit_at(x, w, scale, fit);
            const F solved = fit.xl * reciprocal(fit.ll), error = power - solved * fit.xl;
            const I better = error < least;
            least = choose(better, error, least);
            best = choose(better, solved, best);
            importance = choose(better, fit.ll, importance);
        }
        return best;
    }

    KANNA_INLINE void encode(const F* x, const F* w, bool search, Type* out, int count) {
        Fit fit, best, trial;
        F importance, scales = fit_scale(x, w, fit, importance);
        F d = odd_factor<PER>(scales, importance, G::TOP, G::UNIT), best_d = d, best_whole = splat(1.0f), least = splat(HUGE_ERROR);
        for (int round = 0; round < (search ? 2 : 1); ++round) {
            const F near = nearest_odd(scales * reciprocal(d), G::TOP);
            F whole = near;
            fit_at(x, w, d * whole, fit);
            for (int by = -2; search && by <= 2; by += 4) {
                const F other = clamp(near + static_cast<float>(by), 1.0f, G::TOP);
                fit_at(x, w, d * other, trial);
                const I better = trial.error < fit.error;
                whole = choose(better, other, whole);
                replace(better, trial, fit);
            }
            const F total = group_sums<PER>(fit.error);
            const I better = total < least;
            least = choose(better, total, least);
            best_d = choose(better, d, best_d);
            best_whole = choose(better, whole, best_whole);
            if (round == 0) best = fit;
            replace(better, fit, best);
            scales = d * whole;
            const F top = group_sums<PER>(whole * fit.xl), bottom = group_sums<PER>(whole * whole * fit.ll);
            const F solved = round_to_half(top * reciprocal(bottom) * (1.0f / G::UNIT)) * G::UNIT;
            d = choose(solved > splat(0.0f), solved, d);
        }
        write(best, best_d, best_whole, out, count);
    }

    KANNA_INLINE void write(const Fit& fit, F d, F whole, Type* out, int count) {
        for (int block = 0; block < count; ++block) {
            Vectors v;
            v.d = d[block * PER];
            for (int j = 0; j < PER; ++j) {
                const int k = block * PER + j;
                v.scales[j] = static_cast<int32_t>(whole[k]);
                for (int g = 0; g < IN_SUB; ++g) {
                    const Choice<G::LENGTH>& group = fit.groups[g];
                    for (int p = 0; p < CODES; ++p)
                        v.codes[(j * IN_SUB + g) * CODES + p] = static_cast<uint16_t>(group.codes[p][k]);
                    uint32_t flags = 0;
                    for (int i = 0; i < 8; ++i) {
                        const float level = group.levels[i][k];  // in one expression with the shift, GCC's UBSan errs
                        flags |= static_cast<uint32_t>(level < 0) << i;
                    }
                    if (G::SHIFTED) flags = group.shift[k] < 0;
                    v.flags[j * IN_SUB + g] = static_cast<uint8_t>(flags);
                }
            }
            store(v, out[block]);
        }
    }

    KANNA_INLINE void decode(const Type& b, float* y) {
        Vectors v;
        load(b, v);
        vector_levels<G>(v, y);
        for (int i = 0; i < 256; ++i) y[i] *= v.d * static_cast<float>(v.scales[i / N]);
    }
};

}  // namespace KANNA_ISA
}  // namespace kanna
