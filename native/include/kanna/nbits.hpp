// ONNX's MatMulNBits: groups of codes with one scale and, where it is not the middle, one whole zero.
//
// value = scale * (code - zero). A block is a group: its codes, lowest bits first, then the scale, half or single
// precision, then the zero as a byte. The file keeps the three apart (formats/onnx). Widths and groups are many, so
// they are parameters here, not templates. The search is joint: for every guess of zero and range the codes are
// rounded, then the best scale for those codes is solved for.
#pragma once

#include <cstring>

#include "kanna/feedback.hpp"

namespace kanna {
namespace KANNA_ISA {

struct NBits {
    int bits, group;
    bool zero, half;
    constexpr int top() const { return (1 << bits) - 1; }
    constexpr int middle() const { return 1 << (bits - 1); }
    constexpr int code_bytes() const { return group * bits / 8; }
    constexpr int bytes() const { return code_bytes() + (half ? 2 : 4) + (zero ? 1 : 0); }
};

KANNA_INLINE F between(F x, F low, F high) { return minimum(maximum(x, low), high); }

// One block of a file.
struct NBitsBlock {
    float scale;
    int zero;
    uint8_t codes[256];
};

static inline void load_nbits(const NBits& n, const uint8_t* in, NBitsBlock& b) {
    const int per = 8 / n.bits;
    for (int i = 0; i < n.group; ++i)
        b.codes[i] = static_cast<uint8_t>(in[i / per] >> (n.bits * (i % per)) & n.top());
    in += n.code_bytes();
    if (n.half) {
        uint16_t d;
        std::memcpy(&d, in, 2);
        b.scale = half_to_float(d);
    } else {
        std::memcpy(&b.scale, in, 4);
    }
    b.zero = n.zero ? in[n.half ? 2 : 4] : n.middle();
}

static inline void store_nbits(const NBits& n, const NBitsBlock& b, uint8_t* out) {
    const int per = 8 / n.bits;
    for (int i = 0; i < n.code_bytes(); ++i) {
        uint32_t byte = 0;
        for (int k = 0; k < per; ++k) byte |= static_cast<uint32_t>(b.codes[i * per + k]) << (n.bits * k);
        out[i] = static_cast<uint8_t>(byte);
    }
    out += n.code_bytes();
    if (n.half) {
        const uint16_t d = factor_to_half(b.scale);
        std::memcpy(out, &d, 2);
    } else {
        std::memcpy(out, &b.scale, 4);
    }
    if (n.zero) out[n.half ? 2 : 4] = static_cast<uint8_t>(b.zero);
}

struct NBitsFit {
    F scale, zero, gain;
};

// Round with 1 / inverse and `zero`, solve for the scale, and keep it when it explains more of the weighted squares.
static __attribute__((noinline)) void try_nbits(const NBits& n, const F* x, const F* w, F inverse, F zero, NBitsFit& best) {
    const F low = -zero, high = splat(static_cast<float>(n.top())) - zero;
    F sll{}, sxl{};
    for (int i = 0; i < n.group; ++i) {
        const F level = nearest(between(x[i] * inverse, low, high));
        const F wl = w[i] * level;
        sll += wl * level;
        sxl += wl * x[i];
    }
    const F scale = sxl * reciprocal(sll), gain = scale * sxl;
    const I better = gain > best.gain;
    best.gain = choose(better, gain, best.gain);
    best.scale = choose(better, scale, best.scale);
    best.zero = choose(better, zero, best.zero);
}

static __attribute__((noinline)) NBitsFit fit_nbits(const NBits& n, const F* x, const F* w, bool search) {
    const float top = static_cast<float>(n.top()), middle = static_cast<float>(n.middle());
    F low{}, high{}, peak = x[0];
    for (int i = 0; i < n.group; ++i) {
        low = minimum(low, x[i]);
        high = maximum(high, x[i]);
        peak = choose(magnitude(x[i]) > magnitude(peak), x[i], peak);
    }
    const F range = high - low, inverse_range = reciprocal(range);
    NBitsFit best{n.zero ? range * (1.0f / top) : peak * (-1.0f / middle), splat(middle), splat(-1.0f)};
    if (n.zero) best.zero = nearest(clamp(-low * (inverse_range * top), 0.0f, top));
    if (!search) return best;
    const F first = best.zero;
    if (n.zero) {
        // Guesses: the range in a few steps fewer or more than there are, and the zero a step to either side.
        const float spread = n.bits == 2 ? 1.6f : 2.4f, before = n.bits == 2 ? 1.2f : 1.0f;
        const int guesses = n.bits == 2 ? 9 : (n.bits == 4 ? 8 : 4);
        for (int z = n.bits == 2 ? -3 : -1; z <= (n.bits == 2 ? 3 : 1); ++z) {
            const F zero = clamp(first + static_cast<float>(z), 0.0f, top);
            if (z == 0) try_nbits(n, x, w, inverse_range * top, zero, best);
            for (int g = 0; g < guesses; ++g) {
                const float steps = top - before + spread * static_cast<float>(g) / static_cast<float>(guesses - 1);
                try_nbits(n, x, w, inverse_range * steps, zero, best);
            }
        }
    } else {
        const F inverse_peak = reciprocal(peak);
        const float step = n.bits == 2 ? 0.1f : 0.2f, before = n.bits == 2 ? 1.0f : 0.8f;
        const int guesses = n.bits == 8 ? 4 : (n.bits == 4 ? 11 : 14);
        try_nbits(n, x, w, inverse_peak * -middle, first, best);
        for (int side = 0; side < 2; ++side)
            for (int g = 0; g < guesses; ++g) {
                const float away = step * static_cast<float>(g) - before;
                try_nbits(n, x, w, inverse_peak * (side == 0 ? -middle - away : middle - 1.0f + away), first, best);
            }
    }
    for (int again = 0; again < 3; ++again) try_nbits(n, x, w, reciprocal(best.scale), best.zero, best);
    return best;
}

// Blocks [at, at + count) from sixteen side by side.
static inline void encode_nbits(const NBits& n, const F* x, const F* w, bool search, uint8_t* out, int count) {
    NBitsFit fit = fit_nbits(n, x, w, search);
    if (n.half) fit.scale = round_to_half(fit.scale);
    const F inverse = reciprocal(fit.scale), low = -fit.zero, high = splat(static_cast<float>(n.top())) - fit.zero;
    F codes[256];
    for (int i = 0; i < n.group; ++i) codes[i] = nearest(between(x[i] * inverse, low, high)) + fit.zero;
    for (int k = 0; k < count; ++k) {
        NBitsBlock b;
        b.scale = fit.scale[k];
        b.zero = static_cast<int>(fit.zero[k]);
        for (int i = 0; i < n.group; ++i) b.codes[i] = static_cast<uint8_t>(codes[i][k]);
        store_nbits(n, b, out + static_cast<int64_t>(k) * n.bytes());
    }
}

static inline void decode_nbits(const NBits& n, const uint8_t* data, int64_t blocks, float* out) {
    for (int64_t at = 0; at < blocks; ++at) {
        NBitsBlock b;
        load_nbits(n, data + at * n.bytes(), b);
        for (int i = 0; i < n.group; ++i) out[at * n.group + i] = static_cast<float>(b.codes[i] - b.zero) * b.scale;
    }
}

// Error feedback as feedback.hpp has it, with one scale per group and no whole scales; zeros stay where they are.
struct NBitsFeedback : Work {
    const NBits& n;

    // Of a group: r.d its scale, r.dmin 1 / scale, r.mins its zero.
    Rounded round(int64_t j, F wanted) const {
        const int64_t group = j / n.group;
        const F low = -r.mins[group], high = splat(static_cast<float>(n.top())) - r.mins[group];
        const F level = nearest(between(wanted * r.dmin[group], low, high));
        return {level, r.d[group] * level};
    }

    void round_tile(const Square& m) const {
        round_columns(m, [this](int64_t j, F wanted) { return round(j, wanted); });
    }

    // The scale of each group, solved for with everything else held.
    void improve_scales(const Square& h) const {
        F a[256], ha[256];
        for (int64_t group = h.first / n.group; group < h.last / n.group; ++group) {
            const int64_t first = group * n.group;
            for (int i = 0; i < n.group; ++i) a[i] = r.level[first + i];
            curvature(h, first, n.group, a, ha);
            F aa{}, ag{};
            for (int i = 0; i < n.group; ++i) {
                aa += a[i] * ha[i];
                ag += a[i] * r.gradient[first + i];
            }
            const F wanted = r.d[group] - ag * reciprocal(aa);
            F step = (n.half ? round_to_half(wanted) : wanted) - r.d[group];
            const I better = step * (2.0f * ag + step * aa) < splat(0.0f);
            step = choose(better, step, F{});
            r.d[group] += step;
            r.dmin[group] = reciprocal(r.d[group]);
            for (int i = 0; i < n.group; ++i) {
                r.error[first + i] += step * a[i];
                r.step[first + i] = step * a[i];
            }
            moved(h, first, n.group);
        }
    }

    void settle() const {
        for (int64_t j = 0; j < job.cols; ++j) r.error[j] = r.d[j / n.group] * r.level[j] - r.w[j];
    }

    uint8_t* block_at(int64_t row, int64_t group) const { return job.data + row * job.row_bytes + group * n.bytes(); }

    void load_rows(const int64_t* rows) const {
        for (int k = 0; k < LANES; ++k) {
            for (int64_t j = 0; j < job.cols; ++j) r.w[j][k] = job.x[rows[k] * job.cols + j];
            for (int64_t group = 0; group < job.cols / n.group; ++group) {
                NBitsBlock b;
                load_nbits(n, block_at(rows[k], group), b);
                r.d[group][k] = b.scale;
                r.mins[group][k] = static_cast<float>(b.zero);
                for (int i = 0; i < n.group; ++i) r.level[group * n.group + i][k] = static_cast<float>(b.codes[i] - b.zero);
            }
        }
        for (int64_t group = 0; group < job.cols / n.group; ++group) r.dmin[group] = reciprocal(r.d[group]);
    }

    void store_row(int64_t row, int k) const {
        for (int64_t group = 0; group < job.cols / n.group; ++group) {
            NBitsBlock b;
            b.scale = r.d[group][k];
            b.zero = static_cast<int>(r.mins[group][k]);
            for (int i = 0; i < n.group; ++i)
                b.codes[i] = static_cast<uint8_t>(static_cast<int>(r.level[group * n.group + i][k]) + b.zero);
            store_nbits(n, b, block_at(row, group));
        }
    }

    void improve_tile(const Square& h) const {
        improve_scales(h);
        improve_columns(h, [this](int64_t j, F wanted) { return round(j, wanted); });
    }
};

static inline int64_t nbits_memory(const NBits& n, int64_t cols) { return room_together(cols, 0, cols / n.group, cols / n.group); }

static __attribute__((noinline)) void feedback_nbits(const NBits& n, const FeedbackJob& job, int64_t first, int64_t last,
                                                     void* memory) {
    run_together<NBitsFeedback>(job, first, last, memory, [&](Room& room) {
        Rows rows = room.rows(job.cols, 0, job.cols / n.group);
        rows.mins = room.take(job.cols / n.group);
        return NBitsFeedback{{job, rows}, n};
    });
}

}  // namespace KANNA_ISA
}  // namespace kanna

// Every width, group, and kind of zero and scale: X(name, bits, group, zero, half).
#define KANNA_NBITS_KINDS(X, bits, group)                      \
    X("nbits" #bits "g" #group, bits, group, true, true)       \
    X("nbits" #bits "g" #group "s", bits, group, false, true)  \
    X("nbits" #bits "g" #group "_f32", bits, group, true, false) \
    X("nbits" #bits "g" #group "s_f32", bits, group, false, false)
#define KANNA_NBITS_GROUPS(X, bits)                                                                     \
    KANNA_NBITS_KINDS(X, bits, 16)                                                                      \
    KANNA_NBITS_KINDS(X, bits, 32) KANNA_NBITS_KINDS(X, bits, 64) KANNA_NBITS_KINDS(X, bits, 128)       \
    KANNA_NBITS_KINDS(X, bits, 256)
#define KANNA_NBITS(X) KANNA_NBITS_GROUPS(X, 2) KANNA_NBITS_GROUPS(X, 4) KANNA_NBITS_GROUPS(X, 8)
