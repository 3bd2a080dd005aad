// A scale alone: x ≈ scale * code, code in LOW..HIGH. Types Q4_0, Q5_0, Q8_0, Q2_0, TQ2_0, Q3_K, Q6_K; and the sixteen
// levels of IQ4_NL and IQ4_XS, where a code stands for a level.
#pragma once

#include "kanna/blocks.hpp"
#include "kanna/factor.hpp"

namespace kanna {
namespace KANNA_ISA {

// Whole numbers low..high, known at run time, so that encodings share what is compiled.
struct Range {
    float low, high;
    // Guesses put the largest value at the end of the range, or a little beyond it.
    int guesses() const { return high > 100 ? 3 : (high > 20 ? 5 : 11); }
    float step() const { return 0.2f; }
    float before() const { return high > 3 ? 0.8f : 1.0f; }
    // Q8_0 leaves its lowest code, -128, unused.
    constexpr float first() const { return low == -127 ? -128 : low; }
    KANNA_MEMBER F value(F x) const { return nearest(clamp(x, low, high)); }
    KANNA_MEMBER F code(F x) const { return value(x) - first(); }
    KANNA_MEMBER float level(int code) const { return static_cast<float>(code) + first(); }
};

// The levels of IQ4: nearest one by counting the midpoints below.
struct Levels {
    static constexpr float low = -127, high = 113;
    static constexpr int guesses() { return 8; }
    static constexpr float step() { return 2.0f; }
    static constexpr float before() { return 7.0f; }
    static constexpr Levels shared() { return {}; }
    KANNA_INLINE F value(F x) {
        F out = splat(levels[0]);
#pragma GCC unroll 16
        for (int k = 0; k < 15; ++k) {
            const float middle = 0.5f * (levels[k] + levels[k + 1]), step = levels[k + 1] - levels[k];
            out += (F)((I)(x > splat(middle)) & (I)splat(step));
        }
        return out;
    }
    KANNA_INLINE F code(F x) {
        F out{};
#pragma GCC unroll 16
        for (int k = 0; k < 15; ++k) {
            const float middle = 0.5f * (levels[k] + levels[k + 1]);
            out += (F)((I)(x > splat(middle)) & (I)splat(1.0f));
        }
        return out;
    }
    KANNA_INLINE float level(int code) { return levels[code]; }
};

// A range known to the compiler, where that is faster (feedback.hpp); shared() is for what is compiled once.
template <int LOW, int HIGH>
struct Whole {
    static constexpr Range range{LOW, HIGH};
    static constexpr Range shared() { return range; }
    KANNA_INLINE F value(F x) { return range.value(x); }
    KANNA_INLINE F code(F x) { return range.code(x); }
    KANNA_INLINE float level(int code) { return range.level(code); }
};

// Signed value of largest magnitude.
template <int N>
KANNA_INLINE F extreme(const F* x) {
    F best = x[0];
    for (int i = 1; i < N; ++i) best = choose(magnitude(x[i]) > magnitude(best), x[i], best);
    return best;
}

template <int N, class Code>
KANNA_SHARED F solve_scale(const Code& code, const F* x, const F* w, F inverse, F& scale) {
    F sll{}, sxl{};
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
        const F value = code.value(x[i] * inverse);
        const F wl = w[i] * value;
        sll += wl * value;
        sxl += wl * x[i];
    }
    scale = sxl * reciprocal(sll);
    return scale * sxl;  // how much of the weighted sum of squares is explained
}

template <int N, class Code>
KANNA_SHARED F fit_scale(const Code& code, const F* x, const F* w, bool search) {
    const F peak = extreme<N>(x);
    const F inverse_peak = reciprocal(peak);
    F best = peak * (1.0f / code.low);
    if (!search) return best;
    F best_gain = splat(-1.0f);
    for (int side = 0; side < 2; ++side) {
        for (int g = 0; g < code.guesses(); ++g) {
            const float away = code.step() * static_cast<float>(g) - code.before();
            const float end = side == 0 ? code.low - away : code.high + away;
            F scale;
            const F gain = solve_scale<N>(code, x, w, inverse_peak * end, scale);
            const I better = gain > best_gain;
            best_gain = choose(better, gain, best_gain);
            best = choose(better, scale, best);
        }
    }
    for (int again = 0; again < 2; ++again) {
        F scale;
        const F gain = solve_scale<N>(code, x, w, reciprocal(best), scale);
        const I better = gain > best_gain;
        best_gain = choose(better, gain, best_gain);
        best = choose(better, scale, best);
    }
    return best;
}

template <int N, class Code>
KANNA_SHARED void scale_codes(const Code& code, const F* x, F scale, F* codes) {
    const F inverse = reciprocal(scale);
    for (int i = 0; i < N; ++i) codes[i] = code.code(x[i] * inverse);
}

template <int N, class Code>
KANNA_SHARED F scale_error(const Code& code, const F* x, const F* w, F scale) {
    const F inverse = reciprocal(scale);
    F error{};
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
        const F off = scale * code.value(x[i] * inverse) - x[i];
        error += w[i] * off * off;
    }
    return error;
}

struct ScaleBlock {
    F scales, d;  // whole numbers from bottom to top, and the factor as the file holds it
};

// Quantize the scales of a super-block, as quantize_scales_mins does.
template <int N, int PER, class Code>
KANNA_SHARED ScaleBlock quantize_scales(const Code& code, const F* x, const F* w, float bottom, float top, F scales,
                                        bool search) {
    const F inverse_scale = reciprocal(scales);
    F squares{};
    for (int i = 0; i < N; ++i) {
        const F value = code.value(x[i] * inverse_scale);
        squares += w[i] * value * value;
    }
    ScaleBlock now{};
    now.d = pick_factor<PER>(scales, squares, bottom, top, search);
    now.scales = nearest(clamp(scales * reciprocal(now.d), bottom, top));
    if (!search) return now;
    ScaleBlock best = now;
    F best_error = splat(HUGE_ERROR), target = scales;
    constexpr int ROUNDS = 3;
    for (int round = 0; round < ROUNDS; ++round) {
        const F s0 = nearest(clamp(target * reciprocal(now.d), bottom, top));
        F error = splat(HUGE_ERROR);
        for (int step = -1; step <= 1; ++step) {
            const F s = clamp(s0 + static_cast<float>(step), bottom, top);
            const F e = scale_error<N>(code, x, w, now.d * s);
            const I better = e < error;
            error = choose(better, e, error);
            now.scales = choose(better, s, now.scales);
        }
        const F total = group_sums<PER>(error);
        const I better = total < best_error;
        best_error = choose(better, total, best_error);
        best.d = choose(better, now.d, best.d);
        best.scales = choose(better, now.scales, best.scales);
        if (round + 1 == ROUNDS) break;
        const F scale = now.d * now.scales, inverse = reciprocal(scale);
        F sll{}, sxl{};
        for (int i = 0; i < N; ++i) {
            const F a = now.scales * code.value(x[i] * inverse);
            sll += w[i] * a * a;
            sxl += w[i] * a * x[i];
        }
        const F p = group_sums<PER>(sll), d = round_to_half(group_sums<PER>(sxl) * reciprocal(p));
        now.d = choose(magnitude(d) > splat(0.0f), d, now.d);
        target = scale;
    }
    return best;
}

}  // namespace KANNA_ISA
}  // namespace kanna
