#include "kanna/dispatch.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "kanna/together.hpp"

namespace kanna {
namespace {

std::vector<const Kernels*> usable() {
    std::vector<const Kernels*> found;
#if defined(KANNA_AVX512) || defined(KANNA_AVX2)
    __builtin_cpu_init();
#endif
#if defined(KANNA_AVX512)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        found.push_back(&kernels_avx512);
#endif
#if defined(KANNA_AVX2)
    if (__builtin_cpu_supports("avx2")) found.push_back(&kernels_avx2);
#endif
    found.push_back(&kernels_baseline);
    return found;
}

const Kernels* named(const std::string& isa) {
    for (const Kernels* k : usable())
        if (isa == k->isa) return k;
    return nullptr;
}

std::atomic<const Kernels*>& current() {
    static std::atomic<const Kernels*> value = [] {
        const char* wanted = std::getenv("KANNA_SIMD");
        const Kernels* found = wanted ? named(wanted) : nullptr;
        return found ? found : usable().front();
    }();
    return value;
}

}  // namespace

std::vector<std::string> available() {
    std::vector<std::string> names;
    for (const Kernels* k : usable()) names.emplace_back(k->isa);
    return names;
}

std::string selected() { return current().load()->isa; }

const Kernels& current_kernels() { return *current().load(); }

bool select(const std::string& isa) {
    const Kernels* found = named(isa);
    if (found) current() = found;
    return found != nullptr;
}

template <class T>
static const T* find_in(const Table<T> (&tables)[2], const std::string& name) {
    for (const Table<T>& table : tables)
        for (int i = 0; i < table.count; ++i)
            if (name == table.first[i].name) return &table.first[i];
    return nullptr;
}

const Codec* find(const std::string& name) { return find_in(current().load()->codecs, name); }

const GridKernel* find_grid(const std::string& name) { return find_in(current().load()->grids, name); }

std::map<std::string, int> grids() {
    std::map<std::string, int> found;
    for (const Table<GridKernel>& table : kernels_baseline.grids)
        for (int i = 0; i < table.count; ++i) found[table.first[i].name] = table.first[i].group;
    return found;
}

void feedback(const GridKernel& grid, const FeedbackJob& job, int64_t rows, int threads) {
    // Sixteens stay whole; where rows are few, every thread gets some.
    const int64_t sixteens = (rows + 15) / 16, workers = std::clamp<int64_t>(threads, 1, std::max<int64_t>(sixteens, 1));
    const int64_t step = std::min((sixteens + workers - 1) / workers * 16, ROWS_TOGETHER);
    std::atomic<int64_t> next{0};
    together(workers, [&] {
        const size_t bytes = static_cast<size_t>(grid.memory(job.cols));
        const std::unique_ptr<uint8_t[]> room(new uint8_t[bytes + 64]);  // not cleared: most of it may stay unused
        auto* memory = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(room.get()) + 63) & ~uintptr_t{63});
        for (int64_t first = step * next++; first < rows; first = step * next++)
            grid.feedback(job, first, std::min(first + step, rows), memory);
    });
}

void encode(const Codec& codec, const Job& job, int64_t blocks, int threads, uint8_t* out) {
    // Parts begin at multiples of 16 blocks, so that every block meets the same neighbours in its lanes.
    const int64_t sixteens = (blocks + 15) / 16, workers = std::clamp<int64_t>(threads, 1, std::max<int64_t>(sixteens, 1));
    const int64_t step = std::max<int64_t>((sixteens + workers - 1) / workers, 1) * 16;
    std::atomic<int64_t> next{0};
    together(workers, [&] {
        for (int64_t first = step * next++; first < blocks; first = step * next++)
            codec.encode(job, first, std::min(first + step, blocks), out);
    });
}

void decode(const Codec& codec, const uint8_t* data, int64_t blocks, float* out) { codec.decode(data, blocks, out); }

void row_powers(const float* x, int64_t rows, int64_t cols, const float* w, float* out) {
    current().load()->row_powers(x, rows, cols, w, out);
}

void to_bfloat16(const float* x, int64_t count, uint16_t* out) { current().load()->to_bfloat16(x, count, out); }

void add_low_rank(const LowRankJob& job) {
    const std::unique_ptr<float[]> panel(new float[static_cast<size_t>(job.rank * LOW_RANK_BAND)]);
    current().load()->add_low_rank(job, panel.get());
}

int64_t count_nonfinite(const float* x, int64_t count) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        found += (bits & 0x7f800000u) == 0x7f800000u;
    }
    return found;
}

}  // namespace kanna
