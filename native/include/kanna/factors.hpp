// What error feedback needs of a second moment, shared by every tensor that reads the same inputs.
#pragma once

#include <cstdint>

namespace kanna {

// h: [n][n], symmetric. order: the columns as they will be visited. m[p][q] for q > p: how much of the error of column
// order[p] column order[q] makes up for. With the columns in order, H = R R', R upper triangular, and m = R[p][q] /
// R[q][q]. m[p][p]: R[p][p]^2, what is left of the variance of a column once those before it are known. In double precision and one fixed order of operations, for any number of threads.
// False when H is not positive definite.
bool feedback_factors(const float* h, int64_t n, const int32_t* order, float* m, int threads);

}  // namespace kanna
