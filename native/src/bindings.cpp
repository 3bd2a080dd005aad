#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <type_traits>

#include "kanna/dispatch.hpp"
#include "kanna/factors.hpp"

namespace nb = nanobind;
using namespace nb::literals;

using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Order = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using BytesOut = nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

static const kanna::Codec& codec_of(const std::string& name) {
    const kanna::Codec* codec = kanna::find(name);
    if (!codec) throw nb::key_error(name.c_str());
    return *codec;
}

// A value read through a pointer that is not a multiple of its size is undefined, and vectorised loops count on it.
template <class Array>
static void require_aligned(const Array& array) {
    using Value = std::remove_const_t<typename Array::Scalar>;
    if (reinterpret_cast<uintptr_t>(array.data()) % alignof(Value)) throw nb::value_error("an array is not aligned");
}

static void encode(const std::string& name, Floats x, BytesOut out, bool search, std::optional<Row> weights,
                   int weighting, int threads) {
    const kanna::Codec& codec = codec_of(name);
    const int64_t rows = x.shape(0), cols = x.shape(1), per_row = cols / codec.values;
    if (cols % codec.values || out.shape(0) != x.shape(0) || out.shape(1) != size_t(per_row * codec.bytes))
        throw nb::value_error("shapes do not fit the encoding");
    if (weights && weights->shape(0) != x.shape(1)) throw nb::value_error("weights do not fit the columns");
    if (weighting < 0 || weighting > static_cast<int>(kanna::Weighting::level_square))
        throw nb::value_error("no such weighting");
    require_aligned(x);
    if (weights) require_aligned(*weights);
    const kanna::Job job{x.data(), weights ? weights->data() : nullptr, per_row, search,
                         static_cast<kanna::Weighting>(weighting)};
    nb::gil_scoped_release release;
    kanna::encode(codec, job, rows * per_row, threads, out.data());
}

static void decode(const std::string& name, Bytes data, FloatsOut out) {
    const kanna::Codec& codec = codec_of(name);
    const int64_t per_row = out.shape(1) / codec.values;
    if (out.shape(1) % codec.values || data.shape(0) != out.shape(0) || data.shape(1) != size_t(per_row * codec.bytes))
        throw nb::value_error("shapes do not fit the encoding");
    require_aligned(out);
    nb::gil_scoped_release release;
    kanna::decode(codec, data.data(), int64_t(data.shape(0)) * per_row, out.data());
}

using RowOut = nb::ndarray<float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

static void row_powers(Floats x, Row w, RowOut out) {
    if (w.shape(0) != x.shape(1) || out.shape(0) != x.shape(0)) throw nb::value_error("shapes do not fit");
    require_aligned(x), require_aligned(w), require_aligned(out);
    nb::gil_scoped_release release;
    kanna::row_powers(x.data(), int64_t(x.shape(0)), int64_t(x.shape(1)), w.data(), out.data());
}

using HalvesOut = nb::ndarray<uint16_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

static void to_bfloat16(Floats x, HalvesOut out) {
    if (out.shape(0) != x.shape(0) || out.shape(1) != x.shape(1)) throw nb::value_error("shapes do not fit");
    require_aligned(x), require_aligned(out);
    nb::gil_scoped_release release;
    kanna::to_bfloat16(x.data(), int64_t(x.size()), out.data());
}

static void add_low_rank(Floats x, Floats left, Floats right, float factor, FloatsOut out) {
    const size_t rows = x.shape(0), cols = x.shape(1), rank = right.shape(0);
    if (left.shape(0) != rows || left.shape(1) != rank || right.shape(1) != cols || out.shape(0) != rows ||
        out.shape(1) != cols)
        throw nb::value_error("shapes do not fit");
    require_aligned(x), require_aligned(left), require_aligned(right), require_aligned(out);
    const kanna::LowRankJob job{x.data(), left.data(), right.data(), factor, int64_t(rows), int64_t(cols), int64_t(rank),
                                out.data()};
    nb::gil_scoped_release release;
    kanna::add_low_rank(job);
}

static int64_t count_nonfinite(Floats x) {
    nb::gil_scoped_release release;
    return kanna::count_nonfinite(x.data(), int64_t(x.size()));
}

static void feedback(const std::string& name, Floats x, BytesOut data, Floats h, std::optional<Floats> factors,
                     Order order, int rounds, FloatsOut errors, int threads, int passes) {
    const kanna::GridKernel* grid = kanna::find_grid(name);
    if (!grid) throw nb::key_error(name.c_str());
    const size_t rows = x.shape(0), cols = x.shape(1);
    const bool square = h.shape(0) == cols && h.shape(1) == cols &&
                        (!factors || (factors->shape(0) == cols && factors->shape(1) == cols));
    if (cols % grid->values || data.shape(0) != rows || data.shape(1) != cols / grid->values * grid->bytes || !square ||
        order.shape(0) != cols || errors.shape(0) != rows || errors.shape(1) != 2)
        throw nb::value_error("shapes do not fit");
    require_aligned(order);
    for (size_t p = 0; p < cols; ++p) {
        const int32_t j = order.data()[p];
        const bool inside = p % size_t(grid->group) == 0 ? j % grid->group == 0 : j == order.data()[p - 1] + 1;
        if (j < 0 || size_t(j) >= cols || !inside) throw nb::value_error("the order does not fit the encoding");
    }
    require_aligned(x), require_aligned(h), require_aligned(errors);
    if (factors) require_aligned(*factors);
    const kanna::FeedbackJob job{x.data(), int64_t(cols), h.data(), factors ? factors->data() : nullptr, order.data(),
                                 passes, rounds, data.data(), int64_t(data.shape(1)), errors.data()};
    nb::gil_scoped_release release;
    kanna::feedback(*grid, job, int64_t(rows), threads);
}

static bool feedback_factors(Floats h, Order order, FloatsOut out, int threads) {
    const size_t n = h.shape(0);
    if (h.shape(1) != n || order.shape(0) != n || out.shape(0) != n || out.shape(1) != n)
        throw nb::value_error("shapes do not fit");
    require_aligned(h), require_aligned(order), require_aligned(out);
    for (size_t p = 0; p < n; ++p)
        if (order.data()[p] < 0 || size_t(order.data()[p]) >= n) throw nb::value_error("the order names no column");
    nb::gil_scoped_release release;
    return kanna::feedback_factors(h.data(), int64_t(n), order.data(), out.data(), threads);
}

// What is written to is never converted: the values would land in a copy.
NB_MODULE(_native, m) {
    m.attr("__doc__") = "Block codecs and search kernels.";
    m.def("encode", &encode, "name"_a, "x"_a, "out"_a.noconvert(), "search"_a, "weights"_a.none(), "weighting"_a, "threads"_a,
          "Encode float32 [rows, columns] into uint8 [rows, row bytes].");
    m.def("decode", &decode, "name"_a, "data"_a, "out"_a.noconvert(), "Decode uint8 [rows, row bytes] into float32 [rows, columns].");
    m.def("row_powers", &row_powers, "x"_a, "w"_a, "out"_a.noconvert(), "Sums of squares of float32 [rows, columns], weighted by column.");
    m.def("to_bfloat16", &to_bfloat16, "x"_a, "out"_a.noconvert(),
          "Round float32 [rows, columns] to bfloat16, held as uint16.");
    m.def("add_low_rank", &add_low_rank, "x"_a, "left"_a, "right"_a, "factor"_a, "out"_a.noconvert(),
          "out = x + factor * (left @ right) of float32 [rows, columns], [rows, rank] and [rank, columns].");
    m.def("count_nonfinite", &count_nonfinite, "x"_a, "Number of NaN and infinite values.");
    m.def("grids", &kanna::grids, "Encodings that feedback() knows, and how many neighbouring columns they round together.");
    m.def("feedback_factors", &feedback_factors, "h"_a, "order"_a, "out"_a.noconvert(), "threads"_a,
          "Factors of a second moment float32 [n, n] for columns visited in int32 [n]; False: not positive definite.");
    m.def("feedback", &feedback, "name"_a, "x"_a, "data"_a.noconvert(), "h"_a, "factors"_a.none(), "order"_a, "rounds"_a, "errors"_a.noconvert(),
          "threads"_a, "passes"_a = 1, "Improve encoded rows uint8 [rows, row bytes] of float32 [rows, n] under h; errors float32 [rows, 2].");
    m.def("simd", &kanna::selected, "Instruction set in use.");
    m.def("simd_available", &kanna::available, "Instruction sets this CPU can run, best first.");
    m.def("set_simd", &kanna::select, "isa"_a, "Use another instruction set; False when it is not available.");
}
