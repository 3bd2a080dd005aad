// Prints a hash of what every codec writes for a fixed input: the same on every CPU and instruction set.
// Built for aarch64 too and run under qemu-user by the tests.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kanna/dispatch.hpp"

namespace {

constexpr int ROWS = 37, COLUMNS = 768;
// As many rows are encoded: each special one, and a last group of lanes that is not full. Emulated, all would take
// three times as long.
constexpr int ENCODED = 11;

// xorshift64*: whole-number arithmetic, so that the input is the same everywhere.
struct Random {
    uint64_t state = 0x9e3779b97f4a7c15ull;
    uint32_t next() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return static_cast<uint32_t>((state * 0x2545f4914f6cdd1dull) >> 32);
    }
    // Sum of four uniform values: bell-shaped, exact in float.
    float bell() {
        int64_t sum = 0;
        for (int i = 0; i < 4; ++i) sum += static_cast<int64_t>(next() >> 12) - (1 << 19);
        return static_cast<float>(sum) * 0x1p-21f;
    }
};

uint64_t fnv(const uint8_t* data, size_t size, uint64_t hash = 1469598103934665603ull) {
    for (size_t i = 0; i < size; ++i) hash = (hash ^ data[i]) * 1099511628211ull;
    return hash;
}

}  // namespace

int main() {
    Random random;
    std::vector<float> x(ROWS * COLUMNS), weights(COLUMNS);
    for (float& value : x) value = random.bell();
    for (int i = 0; i < COLUMNS; ++i) x[COLUMNS * 3 + i] = 0.0f;         // a row of zeros
    for (int i = 0; i < COLUMNS; ++i) x[COLUMNS * 5 + i] *= 1e-7f;       // subnormal factors
    for (int i = 0; i < COLUMNS; ++i) x[COLUMNS * 7 + i] *= 1e8f;        // factors beyond half precision
    for (float& value : weights) value = static_cast<float>(random.next() >> 20) * 0x1p-6f;
    const char* names[] = {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs",
                           "q2_0", "tq1_0", "tq2_0", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"};
    for (const std::string& isa : kanna::available()) {
        kanna::select(isa);
        for (const char* name : names) {
            const kanna::Codec& codec = *kanna::find(name);
            const int64_t per_row = COLUMNS / codec.values, blocks = ENCODED * per_row;
            for (int kind = 0; kind < 3; ++kind) {
                const kanna::Job job{x.data(), kind == 2 ? weights.data() : nullptr, per_row, kind > 0,
                                     kind == 2 ? kanna::Weighting::uniform : kanna::Weighting::level_magnitude};
                uint64_t first = 0;
                for (int threads : {1, 2, 4}) {
                    if (threads == 2 && name[0] == 'i' && name[2] < '4') continue;  // slow where it is emulated
                    std::vector<uint8_t> out(static_cast<size_t>(blocks * codec.bytes));
                    kanna::encode(codec, job, blocks, threads, out.data());
                    std::vector<float> back(ENCODED * COLUMNS);
                    kanna::decode(codec, out.data(), blocks, back.data());
                    uint64_t hash = fnv(out.data(), out.size());
                    hash = fnv(reinterpret_cast<const uint8_t*>(back.data()), back.size() * 4, hash);
                    if (threads == 1) first = hash;
                    if (hash != first) {
                        std::printf("%s %s differs with %d threads\n", isa.c_str(), name, threads);
                        return 1;
                    }
                }
                const char* kinds[] = {"nearest", "search", "weighted"};
                std::printf("%s %s %s %016llx\n", isa.c_str(), name, kinds[kind], static_cast<unsigned long long>(first));
            }
        }
    }
    return 0;
}
