// Which kernels run here, and the work spread over threads.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "kanna/kernels.hpp"

namespace kanna {

// Instruction sets this CPU can run, best first.
std::vector<std::string> available();

// The one in use: the best, unless the environment variable KANNA_SIMD or select() names another.
std::string selected();

// False when `isa` is not available here.
bool select(const std::string& isa);

// Its functions.
const Kernels& current_kernels();

// The codec called `name`, or null.
const Codec* find(const std::string& name);

// The encoding called `name` as a grid for error feedback, or null; and all of them, with how many columns go together.
const GridKernel* find_grid(const std::string& name);
std::map<std::string, int> grids();

void feedback(const GridKernel& grid, const FeedbackJob& job, int64_t rows, int threads);

void encode(const Codec& codec, const Job& job, int64_t blocks, int threads, uint8_t* out);
void decode(const Codec& codec, const uint8_t* data, int64_t blocks, float* out);

// See Kernels::row_powers.
void row_powers(const float* x, int64_t rows, int64_t cols, const float* w, float* out);

// See Kernels::to_bfloat16.
void to_bfloat16(const float* x, int64_t count, uint16_t* out);

// See Kernels::add_low_rank.
void add_low_rank(const LowRankJob& job);

// Number of values that are NaN or infinite.
int64_t count_nonfinite(const float* x, int64_t count);

}  // namespace kanna
