// Scale and minimum together: x ≈ scale * code + min, code in 0..max. Types Q4_1, Q5_1, Q2_K, Q4_K, Q5_K.
//
// Weighted least squares: for each guess of the range the codes are rounded, then the best scale and minimum
// for those codes are solved for; the best guess is refined by rounding and solving again.
#pragma once

#include "kanna/factor.hpp"

namespace kanna {
namespace KANNA_ISA {

struct ScaleMin {
    F scale, min;
};

// Sums of a weighted fit of x by codes.
struct Sums {
    F w, x, xx;
};

template <int N>
KANNA_INLINE Sums sums_of(const F* x, const F* w) {
    Sums s{F{}, F{}, F{}};
    for (int i = 0; i < N; ++i) {
        const F wx = w[i] * x[i];
        s.w += w[i];
        s.x += wx;
        s.xx += wx * x[i];
    }
    return s;
}

// Round with (x - min) * inverse, solve for scale and minimum, and the error they leave.
template <int N, bool NEGATIVE>
KANNA_SHARED F solve_scale_min(const F* x, const F* w, const Sums& s, F inverse, F shift, float max, ScaleMin& pair) {
    F sl{}, sll{}, sxl{};
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
        const F code = nearest(clamp((x[i] - shift) * inverse, 0.0f, max));
        const F wl = w[i] * code;
        sl += wl;
        sll += wl * code;
        sxl += wl * x[i];
    }
    const F determinant = s.w * sll - sl * sl;
    const I solvable = determinant > s.w * sll * 1e-6f;
    const F inverse_det = splat(1.0f) / choose(solvable, determinant, splat(1.0f));
    F scale = (s.w * sxl - s.x * sl) * inverse_det;
    F min = (sll * s.x - sl * sxl) * inverse_det;
    if (NEGATIVE) {
        // The minimum is stored as a magnitude that is subtracted: above zero it is zero.
        const I above = min > splat(0.0f);
        scale = choose(above, sxl * reciprocal(sll), scale);
        min = choose(above, splat(0.0f), min);
    }
    pair.scale = scale;
    pair.min = min;
    const F error = s.xx + scale * (scale * sll + 2.0f * (min * sl - sxl)) + min * (min * s.w - 2.0f * s.x);
    return choose(solvable & (scale > splat(0.0f)), error, splat(HUGE_ERROR));
}

template <int N, bool NEGATIVE>
KANNA_SHARED ScaleMin fit_scale_min(const F* x, const F* w, float max, bool search) {
    F low = x[0], high = x[0];
    for (int i = 1; i < N; ++i) {
        low = minimum(low, x[i]);
        high = maximum(high, x[i]);
    }
    if (NEGATIVE) low = minimum(low, splat(0.0f));
    if (NEGATIVE) high = maximum(high, splat(0.0f));
    const F range = high - low;
    ScaleMin best{range * (1.0f / max), low};
    if (!search) return best;
    const Sums s = sums_of<N>(x, w);
    const F inverse_range = reciprocal(range);
    F best_error = splat(HUGE_ERROR);
    // Guesses: the range cut at its top by a few steps, and its bottom moved up by parts of a step.
    const int tops = max > 20 ? 10 : 12;
    const float spread = max > 3 ? (max > 20 ? 3.0f : 2.6f) : 1.5f;
    for (int bottom = 0; bottom < 2; ++bottom) {
        const F shift = low + range * (static_cast<float>(bottom) * (max > 3 ? 0.6f : 0.35f) / max);
        for (int top = 0; top < tops; ++top) {
            const float steps = max - 0.6f + spread * static_cast<float>(top) / static_cast<float>(tops - 1);
            ScaleMin pair;
            const F error = solve_scale_min<N, NEGATIVE>(x, w, s, inverse_range * steps, shift, max, pair);
            const I better = error < best_error;
            best_error = choose(better, error, best_error);
            best.scale = choose(better, pair.scale, best.scale);
            best.min = choose(better, pair.min, best.min);
        }
    }
    for (int again = 0; again < 2; ++again) {
        ScaleMin pair;
        const F error = solve_scale_min<N, NEGATIVE>(x, w, s, reciprocal(best.scale), best.min, max, pair);
        const I better = error < best_error;
        best_error = choose(better, error, best_error);
        best.scale = choose(better, pair.scale, best.scale);
        best.min = choose(better, pair.min, best.min);
    }
    return best;
}

// Codes for a scale and a minimum as the file holds them.
template <int N>
KANNA_INLINE void scale_min_codes(const F* x, float max, F scale, F min, F* codes) {
    const F inverse = reciprocal(scale);
    for (int i = 0; i < N; ++i) codes[i] = nearest(clamp((x[i] - min) * inverse, 0.0f, max));
}

// A super-block: scales and minima are whole numbers up to top, times d and dmin, which are half-precision values.
struct ScaleMinBlock {
    F scales, mins, d, dmin;
};

template <int N>
KANNA_SHARED F scale_min_error(const F* x, const F* w, float max, F scale, F min) {
    const F inverse = reciprocal(scale);
    F error{};
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
        const F code = nearest(clamp((x[i] + min) * inverse, 0.0f, max));
        const F off = scale * code - min - x[i];
        error += w[i] * off * off;
    }
    return error;
}

// Quantize scales and minima of a super-block, jointly: every sub-block tries the neighbours of both, then
// d and dmin are solved for with the codes held, and the best round is kept.
template <int N, int PER>
KANNA_SHARED ScaleMinBlock quantize_scales_mins(const F* x, const F* w, float max, float top, const ScaleMin& pair,
                                                bool search) {
    // What a deviation of the scale costs grows with the squares of the codes, one of the minimum with the weights.
    const F inverse_scale = reciprocal(pair.scale);
    F squares{}, weights{}, xs{};
    for (int i = 0; i < N; ++i) {
        const F code = nearest(clamp((x[i] - pair.min) * inverse_scale, 0.0f, max));
        squares += w[i] * code * code;
        weights += w[i];
        xs += w[i] * x[i];
    }
    ScaleMinBlock now{};
    now.d = pick_factor<PER>(pair.scale, squares, 0, top, search);
    now.dmin = pick_factor<PER>(-pair.min, weights, 0, top, search);
    now.scales = nearest(clamp(pair.scale * reciprocal(now.d), 0.0f, top));
    now.mins = nearest(clamp(-pair.min * reciprocal(now.dmin), 0.0f, top));
    if (!search) return now;
    ScaleMinBlock best = now;
    F best_error = splat(HUGE_ERROR), target_scale = pair.scale, target_min = -pair.min;
    constexpr int ROUNDS = 3;
    for (int round = 0; round < ROUNDS; ++round) {
        const F s0 = nearest(clamp(target_scale * reciprocal(now.d), 0.0f, top));
        const F m0 = nearest(clamp(target_min * reciprocal(now.dmin), 0.0f, top));
        F error = splat(HUGE_ERROR);
        for (int ds = -1; ds <= 1; ++ds) {
            for (int dm = -1; dm <= 1; ++dm) {
                const F s = clamp(s0 + static_cast<float>(ds), 0.0f, top);
                const F m = clamp(m0 + static_cast<float>(dm), 0.0f, top);
                const F e = scale_min_error<N>(x, w, max, now.d * s, now.dmin * m);
                const I better = e < error;
                error = choose(better, e, error);
                now.scales = choose(better, s, now.scales);
                now.mins = choose(better, m, now.mins);
            }
        }
        const F total = group_sums<PER>(error);
        const I better = total < best_error;
        best_error = choose(better, total, best_error);
        best.d = choose(better, now.d, best.d);
        best.dmin = choose(better, now.dmin, best.dmin);
        best.scales = choose(better, now.scales, best.scales);
        best.mins = choose(better, now.mins, best.mins);
        if (round + 1 == ROUNDS) break;
        // x ≈ d * a - dmin * b with a = scale * code and b = minimum, both known now.
        const F scale = now.d * now.scales, min = now.dmin * now.mins, inverse = reciprocal(scale);
        F aa{}, a1{}, xa{};
        for (int i = 0; i < N; ++i) {
            const F a = now.scales * nearest(clamp((x[i] + min) * inverse, 0.0f, max));
            const F wa = w[i] * a;
            aa += wa * a;
            a1 += wa;
            xa += wa * x[i];
        }
        const F p = group_sums<PER>(aa), q = group_sums<PER>(a1 * now.mins), t = group_sums<PER>(xa);
        const F r = group_sums<PER>(weights * now.mins * now.mins), u = group_sums<PER>(xs * now.mins);
        const F determinant = p * r - q * q;
        const I both = determinant > p * r * 1e-5f;
        const F inverse_det = splat(1.0f) / choose(both, determinant, splat(1.0f));
        const F d = round_to_half(choose(both, (t * r - q * u) * inverse_det, (t + now.dmin * q) * reciprocal(p)));
        const F dmin = round_to_half(choose(both, (t * q - p * u) * inverse_det, now.dmin));
        const I usable = (d > splat(0.0f)) & (dmin >= splat(0.0f));
        now.d = choose(usable, d, now.d);
        now.dmin = choose(usable, dmin, now.dmin);
        target_scale = scale;
        target_min = min;
    }
    return best;
}

}  // namespace KANNA_ISA
}  // namespace kanna
