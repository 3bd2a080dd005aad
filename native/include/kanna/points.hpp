// The best point of a codebook for eight values, under a metric that is diagonal: every entry is tried.
//
// The cost of levels l is sum of q l^2 - 2 b l. Entries come in two halves, and what each half costs is tabled first,
// so that an entry is one addition. Signs are chosen with the levels: where seven are stored and the eighth follows, an
// odd number of negative ones has to be made even by the cheapest change, which may lie in either half. Sixteen groups
// go side by side, one per lane.
#pragma once

#include "kanna/lanes.hpp"
#include "kanna/vectors.hpp"

namespace kanna {
namespace KANNA_ISA {

enum class Sign { free, even, none };  // each value its own; an even number negative; in the levels, which are shifted

constexpr int8_t levels_iq1[3] = {-1, 0, 1}, levels_iq2[3] = {8, 25, 43};
constexpr int8_t levels_iq3_xxs[8] = {4, 12, 20, 28, 36, 44, 52, 62}, levels_iq3_s[8] = {1, 3, 5, 7, 9, 11, 13, 15};
constexpr float SHIFT = 0.125f;

// What encodings of the same levels share.
template <int LENGTH_, const auto& LEVELS_, bool SHIFTED_>
struct LevelTable {
    static constexpr int LENGTH = LENGTH_, LEVELS = sizeof(LEVELS_), BITS = LEVELS == 3 ? 2 : 3;
    static constexpr bool SHIFTED = SHIFTED_;
    static constexpr float level(int digit) { return LEVELS_[digit]; }
};

// N values share a scale, a code stands for LENGTH of them, groups of eight in SHARED are shifted together.
template <class Block, int N_, int LENGTH_, const auto& BOOK, const auto& LEVELS_, Sign SIGN_, int PARTS_OF_ONE,
          int SHARED_ = 1>
struct VectorGrid {
    using Type = Block;
    using Levels = LevelTable<LENGTH_, LEVELS_, SIGN_ == Sign::none>;
    static constexpr int N = N_, PER = 256 / N_, LENGTH = LENGTH_, SHARED = SHARED_;
    static constexpr int COUNT = sizeof(BOOK) / sizeof(BOOK[0]), LEVELS = sizeof(LEVELS_), BITS = LEVELS == 3 ? 2 : 3;
    static constexpr Sign SIGN = SIGN_;
    static constexpr bool SHIFTED = SIGN_ == Sign::none;
    static constexpr float TOP = SHIFTED ? 15 : 31;  // the highest scale
    static constexpr float UNIT = 1.0f / PARTS_OF_ONE;  // of the half-precision factor
    // search guesses that the largest value goes to these levels, and between
    static constexpr float PEAK = LEVELS_[LEVELS - 1], FIRST_END = SHIFTED ? 1.1f : 0.75f * PEAK;
    static constexpr float LAST_END = SHIFTED ? 2.6f : 1.35f * PEAK;
    static constexpr int GUESSES = SHIFTED ? 5 : 7;
    static constexpr const uint16_t* book() { return BOOK; }
    static constexpr float level(int digit) { return LEVELS_[digit]; }
};

using GridIQ2_XXS = VectorGrid<IQ2_XXS, 32, 8, book_iq2_xxs, levels_iq2, Sign::even, 8>;
using GridIQ2_XS = VectorGrid<IQ2_XS, 16, 8, book_iq2_xs, levels_iq2, Sign::even, 8>;
using GridIQ2_S = VectorGrid<IQ2_S, 16, 8, book_iq2_s, levels_iq2, Sign::free, 8>;
using GridIQ3_XXS = VectorGrid<IQ3_XXS, 32, 4, book_iq3_xxs, levels_iq3_xxs, Sign::even, 4>;
using GridIQ3_S = VectorGrid<IQ3_S, 32, 4, book_iq3_s, levels_iq3_s, Sign::free, 1>;
using GridIQ1_S = VectorGrid<IQ1_S, 32, 8, book_iq1, levels_iq1, Sign::none, 1, 4>;
using GridIQ1_M = VectorGrid<IQ1_M, 16, 8, book_iq1, levels_iq1, Sign::none, 1>;

// What eight values become: levels with their signs and shift, and codes.
template <int LENGTH>
struct Choice {
    F levels[8], shift;
    I codes[8 / LENGTH];
};

// The entry of a book with the least sum of two tabled halves, or the lesser of two such sums; the first of equals.
template <class G, bool TWO>
KANNA_INLINE void scan(const F* low, const F* high, const F* low2, const F* high2, F& least, I& found) {
    constexpr int HALF = G::BITS * G::LENGTH / 2, MASK = (1 << HALF) - 1, CHAINS = WIDTH == 64 ? 4 : 2;
    const uint16_t* book = G::book();
    for (int piece = 0; piece < PIECES; ++piece) {
        auto part = [piece](const F* table, int at) { return reinterpret_cast<const Piece*>(table + at)[piece]; };
        // Several chains of comparisons, so that none waits for the one before it.
        Piece costs[CHAINS];
        PieceI at[CHAINS], here = {};
#pragma GCC unroll 4
        for (int c = 0; c < CHAINS; ++c) {
            costs[c] = Piece{} + 3e38f;
            at[c] = PieceI{};
        }
        for (int k = 0; k < G::COUNT; k += CHAINS) {
#pragma GCC unroll 4
            for (int c = 0; c < CHAINS; ++c) {
                const int entry = book[k + c], a = entry & MASK, b = entry >> HALF;
                Piece cost = part(low, a) + part(high, b);
                if (TWO) {
                    const Piece first = part(low2, a) + part(high, b), second = part(low, a) + part(high2, b);
                    cost = first < second ? first : second;
                }
                const PieceI better = cost < costs[c];
                costs[c] = better ? cost : costs[c];
                at[c] = better ? here : at[c];
            }
            here += CHAINS;
        }
#pragma GCC unroll 4
        for (int c = 1; c < CHAINS; ++c) {
            at[c] += c;
            const PieceI better = (costs[c] < costs[0]) | ((costs[c] == costs[0]) & (at[c] < at[0]));
            costs[0] = better ? costs[c] : costs[0];
            at[0] = better ? at[c] : at[0];
        }
        reinterpret_cast<Piece*>(&least)[piece] = costs[0];
        reinterpret_cast<PieceI*>(&found)[piece] = at[0];
    }
}

// Costs of the halves of an entry. flips: what a change of sign costs per level; `changed` gets one change in the half.
template <class G, bool FLIP>
KANNA_SHARED void tables(const F* q, const F* b, const F* flips, F shift, F* plain, F* changed) {
    constexpr int LEVELS = G::LEVELS, VALUES = G::LENGTH / 2, BITS = G::BITS;
    F one[VALUES][LEVELS], flip[VALUES][LEVELS];
#pragma GCC unroll 8
    for (int i = 0; i < VALUES; ++i) {
        const F twice = 2.0f * (G::SHIFTED ? b[i] : magnitude(b[i]));
#pragma GCC unroll 8
        for (int l = 0; l < LEVELS; ++l) {
            const F level = G::SHIFTED ? G::level(l) + shift : splat(G::level(l));
            one[i][l] = level * (q[i] * level - twice);
            if (FLIP) flip[i][l] = flips[i] * level;
        }
    }
    if constexpr (VALUES == 2) {
#pragma GCC unroll 8
        for (int m = 0; m < LEVELS; ++m)
#pragma GCC unroll 8
            for (int l = 0; l < LEVELS; ++l) {
                const F sum = one[0][l] + one[1][m];
                plain[l | m << BITS] = sum;
                if (FLIP) changed[l | m << BITS] = sum + minimum(flip[0][l], flip[1][m]);
            }
    } else {
        for (int h = 0; h < LEVELS * LEVELS; ++h) {
            const int n = h / LEVELS, m = h % LEVELS;
            const F upper = one[2][m] + one[3][n];
            const F upper_flip = FLIP ? minimum(flip[2][m], flip[3][n]) : F{};
#pragma GCC unroll 8
            for (int k = 0; k < LEVELS; ++k)
#pragma GCC unroll 8
                for (int l = 0; l < LEVELS; ++l) {
                    const int at = l | k << BITS | m << (2 * BITS) | n << (3 * BITS);
                    const F sum = (one[0][l] + one[1][k]) + upper;
                    plain[at] = sum;
                    if (FLIP) changed[at] = sum + minimum(minimum(flip[0][l], flip[1][k]), upper_flip);
                }
        }
    }
}

// Levels of the entries that the lanes found.
template <class G>
KANNA_INLINE void levels_of(I code, F* levels) {
    I entry;
    for (int k = 0; k < LANES; ++k) entry[k] = G::book()[code[k]];
#pragma GCC unroll 8
    for (int i = 0; i < G::LENGTH; ++i) {
        const I digit = (entry >> (G::BITS * i)) & ((1 << G::BITS) - 1);
        F level = splat(G::level(0));
#pragma GCC unroll 8
        for (int l = 1; l < G::LEVELS; ++l) level = choose(digit == l, splat(G::level(l)), level);
        levels[i] = level;
    }
}

// Levels of a block with their signs or shifts.
template <class G>
KANNA_INLINE void vector_levels(const Vectors& v, float* levels) {
    for (int i = 0; i < 256; ++i) {
        const uint32_t entry = G::book()[v.codes[i / G::LENGTH]], flags = v.flags[i / 8];
        const float level = G::level(static_cast<int>(entry >> (G::BITS * (i % G::LENGTH)) & ((1 << G::BITS) - 1)));
        if (G::SHIFTED)
            levels[i] = level + (flags ? -SHIFT : SHIFT);
        else
            levels[i] = flags >> (i % 8) & 1 ? -level : level;
    }
}

// The best levels at one shift, and their cost.
template <class G>
static __attribute__((noinline)) F choose_shifted(const F* q, const F* b, F shift, Choice<G::LENGTH>& out) {
    constexpr int LENGTH = G::LENGTH, SIZE = 1 << (G::BITS * LENGTH / 2), PARTS = 8 / LENGTH;
    constexpr bool EVEN = G::SIGN == Sign::even;
    F low[SIZE], high[SIZE], low2[EVEN ? SIZE : 1], high2[EVEN ? SIZE : 1], flips[8];
    I odd{};
    if (EVEN) {
        for (int i = 0; i < 8; ++i) odd ^= (b[i] < splat(0.0f));
        for (int i = 0; i < 8; ++i) flips[i] = choose(odd, 4.0f * magnitude(b[i]), splat(0.0f));
    }
    F cost[PARTS]{}, changed_cost[PARTS];
    I changed[PARTS];
    for (int p = 0; p < PARTS; ++p) {
        const int at = p * LENGTH, half = at + LENGTH / 2;
        tables<typename G::Levels, EVEN>(q + at, b + at, flips + at, shift, low, low2);
        tables<typename G::Levels, EVEN>(q + half, b + half, flips + half, shift, high, high2);
        if (!EVEN || PARTS == 2) scan<G, false>(low, high, low2, high2, cost[p], out.codes[p]);
        if (EVEN) scan<G, true>(low, high, low2, high2, changed_cost[p], changed[p]);
    }
    F total = cost[0];
    if constexpr (EVEN && PARTS == 1) {
        total = changed_cost[0];
        out.codes[0] = changed[0];
    } else if constexpr (EVEN) {
        const F first = changed_cost[0] + cost[1], second = cost[0] + changed_cost[1];
        total = minimum(first, second);
        out.codes[0] = choose(first <= second, changed[0], out.codes[0]);
        out.codes[1] = choose(first <= second, out.codes[1], changed[1]);
    } else if constexpr (PARTS == 2) {
        total += cost[1];
    }
    for (int p = 0; p < PARTS; ++p) levels_of<G>(out.codes[p], out.levels + p * LENGTH);
    if (G::SHIFTED) {
        for (int i = 0; i < 8; ++i) out.levels[i] += shift;
        out.shift = shift;
        return total;
    }
    F least = splat(3e38f);
    I place{};
    for (int i = 0; EVEN && i < 8; ++i) {
        const F loss = flips[i] * out.levels[i];
        place = choose(loss < least, I{} + i, place);
        least = minimum(loss, least);
    }
    for (int i = 0; i < 8; ++i) {
        I negative = b[i] < splat(0.0f);
        if (EVEN) negative ^= odd & (place == i);
        out.levels[i] = choose(negative, -out.levels[i], out.levels[i]);
    }
    return total;
}

// The best levels; groups that are shifted with others keep the shift given.
template <class G>
KANNA_INLINE F choose_points(const F* q, const F* b, F shift, Choice<G::LENGTH>& out) {
    if constexpr (!G::SHIFTED || G::SHARED > 1) return choose_shifted<G>(q, b, shift, out);
    Choice<G::LENGTH> down;
    const F cost = choose_shifted<G>(q, b, splat(SHIFT), out), other = choose_shifted<G>(q, b, splat(-SHIFT), down);
    const I better = other < cost;
    for (int i = 0; i < 8; ++i) out.levels[i] = choose(better, down.levels[i], out.levels[i]);
    for (int p = 0; p < 8 / G::LENGTH; ++p) out.codes[p] = choose(better, down.codes[p], out.codes[p]);
    out.shift = choose(better, down.shift, out.shift);
    return minimum(cost, other);
}

}  // namespace KANNA_ISA
}  // namespace kanna
