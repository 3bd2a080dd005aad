// The factor of a super-block: d such that the scales of its sub-blocks are close to whole numbers times d.
#pragma once

#include "kanna/half.hpp"
#include "kanna/lanes.hpp"

namespace kanna {
namespace KANNA_ISA {

// `values` are wanted, `importance` says what a squared deviation costs; whole numbers go from `bottom` to `top`.
// Guesses put the largest value at an end of the range or a little inside or beyond, where it is cut.
// The factor is in every lane of its super-block, already as the file will hold it.
template <int PER>
KANNA_SHARED F pick_factor(F values, F importance, float bottom, float top, bool search) {
    const bool both = bottom < 0;
    const float first = both ? bottom : top;
    const F peak = group_peaks<PER>(values);
    F best = round_to_half(peak * (1.0f / first));
    if (!search) return best;
    F least = splat(HUGE_ERROR);
    constexpr int GUESSES = 9;
    for (int side = 0; side < (both ? 2 : 1); ++side) {
        for (int g = 0; g < GUESSES; ++g) {
            const float end = (side == 0 ? first : top) * (1.0f + 0.03f * static_cast<float>(g - GUESSES / 2));
            const F d = round_to_half(peak * (1.0f / end));
            const F off = d * nearest(clamp(values * reciprocal(d), bottom, top)) - values;
            const F cost = group_sums<PER>(importance * off * off);
            const I better = cost < least;
            least = choose(better, cost, least);
            best = choose(better, d, best);
        }
    }
    return best;
}

}  // namespace KANNA_ISA
}  // namespace kanna
